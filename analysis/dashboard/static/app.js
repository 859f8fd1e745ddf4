// Puts the parts together: picks, the newest data of a served page, and what the address remembers.

const NUM_CHIPS = 24;
let isStarted = false; // the charts; the table is there before them

function start() {
  setData(JSON.parse(byId('data').textContent));
  setPicks(picksOfAddress() ?? firstPicks());
  startTable(pick);
  startCharts();
  showHeader();
  buildTable();
  afterPaint(() => { document.body.dataset.table = Math.round(performance.now()); }); // ms since the page was opened
  // The rest of the page, plotly and the pictures, is read while the table can already be seen and used.
  document.addEventListener('DOMContentLoaded', () => afterPaint(startComparison));
}

function startComparison() {
  loadPlotly();
  startViewer();
  isStarted = true;
  drawComparison();
  afterPaint(() => afterPaint(() => {
    document.body.dataset.ready = Math.round(performance.now());
    const seconds = JSON.parse(byId('refresh').textContent);
    if (seconds) poll(seconds);
  }));
}

function afterPaint(action) {
  requestAnimationFrame(() => setTimeout(action));
}

// plotly takes the better part of a second to start, so it lies in the page as a text until then.
function loadPlotly() {
  const text = byId('plotly');
  text.replaceWith(element('script', {}, text.textContent));
}

function pick(keys) {
  setPicks(keys);
  markPicks();
  rememberPicks();
  if (isStarted) drawComparison();
}

function drawComparison() {
  const hasPicks = store.picks.length > 0;
  byId('comparison').hidden = !hasPicks;
  byId('nothing-picked').hidden = hasPicks || store.data.runs.length === 0;
  drawChips();
  if (hasPicks) {
    drawCharts();
    drawDiff();
  }
  drawWhenSeen(byId('viewer'), drawViewer);
}

function drawChips() {
  const chips = pickedRuns().slice(0, NUM_CHIPS).map((run) => {
    const close = element('button', { type: 'button', 'aria-label': `unpick ${run.label}`, title: 'unpick' }, '×');
    close.addEventListener('click', () => pick(store.picks.filter((key) => key !== run.key)));
    return element('span', { class: 'chip' }, swatch(run), element('span', { class: 'chip-name', title: run.key }, run.label), close);
  });
  const more = store.picks.length - NUM_CHIPS;
  if (more > 0) chips.push(element('span', { class: 'hint' }, `and ${more} more`));
  byId('picks').replaceChildren(...chips);
}

function showHeader() {
  const { runs, root, written_at: written } = store.data;
  const counts = new Map();
  for (const run of runs) counts.set(run.state, (counts.get(run.state) ?? 0) + 1);
  const states = [...counts].sort((a, b) => b[1] - a[1]).map(([state, count]) => `${count} ${state}`);
  const numRuns = runs.filter((run) => run.is_run).length;
  byId('summary').replaceChildren(
    element('b', {}, formatCount(numRuns, 'run')),
    ` in ${root}${states.length ? `: ${states.join(', ')}` : ''}${written ? `; as of ${formatTime(written)} UTC` : ''}`,
  );
}

// After a reload the same runs are picked.
function rememberPicks() {
  const query = new URLSearchParams(store.picks.map((key) => ['pick', key]));
  history.replaceState(null, '', `#${query}`);
}

function picksOfAddress() {
  const query = new URLSearchParams(location.hash.slice(1));
  const known = query.getAll('pick').filter((key) => store.runs.has(key));
  return known.length ? known : null;
}

async function poll(seconds) {
  byId('live').hidden = false;
  for (;;) {
    const time = new Date().toLocaleTimeString('en-GB');
    try {
      const data = await newer('data.json', store.data.version);
      const newViews = await newer('views.json', views().version);
      if (newViews) setViews(newViews);
      if (data) {
        setData(data);
        showHeader();
        buildTable();
      }
      if (data || newViews) drawComparison();
      byId('live').textContent = `Live: looked at ${time}.`;
      byId('live').classList.remove('problem');
    } catch (error) {
      byId('live').textContent = `No answer from the server at ${time}; this is what it said last.`;
      byId('live').classList.add('problem');
    }
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  }
}

// The server's content, or null where it has nothing newer than the given version.
async function newer(name, version) {
  const response = await fetch(`${name}?have=${version}`, { cache: 'no-store' });
  if (!response.ok) throw new Error(`${name}: ${response.status}`);
  return response.status === 204 ? null : response.json();
}

start();
