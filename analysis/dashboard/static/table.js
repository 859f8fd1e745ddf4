// The table of runs: sorting, filters, picks. Its rows are made once for each data and then only moved.

const table = { sort: 'AP', ascending: false, withFactors: false, columns: [], rows: new Map(), onPick: () => {} };

function startTable(onPick) {
  table.onPick = onPick;
  for (const id of ['filter-text', 'filter-state', 'filter-recipe']) byId(id).addEventListener('input', arrangeTable);
  byId('factor-columns').addEventListener('change', (event) => {
    table.withFactors = event.target.checked;
    buildTable();
  });
  byId('pick-shown').addEventListener('click', () => onPick([...store.picks, ...shownRuns().map((run) => run.key)]));
  byId('pick-none').addEventListener('click', () => onPick([]));
  byId('table').tHead.addEventListener('click', (event) => {
    const id = event.target.closest('button')?.dataset.column;
    if (id) sortBy(id);
  });
  byId('table').tBodies[0].addEventListener('change', (event) => {
    const { key } = event.target.dataset;
    onPick(event.target.checked ? [...store.picks, key] : store.picks.filter((other) => other !== key));
  });
}

// All of it, after new data or another choice of columns.
function buildTable() {
  const focused = document.activeElement?.dataset?.key;
  table.columns = columns(table.withFactors);
  if (!table.columns.some(({ id }) => id === table.sort)) table.sort = 'AP';
  fillFilter(byId('filter-state'), store.data.runs.map((run) => run.state));
  fillFilter(byId('filter-recipe'), store.data.runs.map((run) => run.recipe));
  byId('table').tHead.replaceChildren(headRow());
  table.rows = new Map(store.data.runs.map((run) => [run.key, bodyRow(run)]));
  arrangeTable();
  markPicks();
  if (focused !== undefined) table.rows.get(focused)?.querySelector('input')?.focus({ preventScroll: true });
}

// What is chosen stays a choice, though no run may be like that any more.
function fillFilter(select, values) {
  const known = [...new Set([...values, select.value])].filter((value) => value).sort();
  setOptions(select, [['', 'all'], ...known.map((value) => [value, value])], select.value);
}

function headRow() {
  const row = element('tr', {}, element('th', { scope: 'col', class: 'pick' }, element('span', { class: 'hidden' }, 'Pick')));
  for (const { id, label, title, number } of table.columns) {
    const button = element('button', { type: 'button', 'data-column': id, title }, label);
    row.append(element('th', { scope: 'col', class: number ? 'number' : null, 'data-column': id }, button));
  }
  return row;
}

function bodyRow(run) {
  const pick = element('input', { type: 'checkbox', 'data-key': run.key, disabled: !run.is_run, 'aria-label': `pick ${run.label}` });
  const row = element('tr', { 'data-key': run.key, class: run.is_run ? null : 'no-run' });
  row.append(element('td', { class: 'pick' }, pick, element('span', { class: 'mark' })));
  const isEarly = run.ap && run.ap_step !== null;
  for (const column of table.columns) {
    let cell = column.cell?.(run);
    if (!cell) {
      const classes = [column.number && 'number', column.className, column.mark?.(run) && 'unusual'];
      if (column.className === 'ap' && isEarly) classes.push('early');
      cell = element('td', { class: classes.filter((name) => name).join(' ') }, cellText(column, run));
      if (column.className === 'ap' && isEarly) cell.title = `evaluation at step ${run.ap_step}, not the final one`;
      if (column.className === 'factors') cell.title = cell.textContent;
      if (column.id === 'created') cell.title = run.created_at ?? '';
    }
    row.append(cell);
  }
  row.dataset.words = [row.textContent, run.key, ...(run.experiments ?? []), ...unusualFactors(run)].join(' ').toLowerCase();
  return row;
}

function sortBy(id) {
  const column = table.columns.find((other) => other.id === id);
  // Numbers are read from the best down, names from A.
  table.ascending = table.sort === id ? !table.ascending : !column.number;
  table.sort = id;
  arrangeTable();
}

function shownRuns() {
  const words = byId('filter-text').value.toLowerCase().split(/\s+/).filter((word) => word);
  const state = byId('filter-state').value;
  const recipe = byId('filter-recipe').value;
  return store.data.runs.filter(
    (run) =>
      (!state || run.state === state) &&
      (!recipe || run.recipe === recipe) &&
      words.every((word) => table.rows.get(run.key).dataset.words.includes(word)),
  );
}

// Filter and order, without making a row anew.
function arrangeTable() {
  const { value } = table.columns.find(({ id }) => id === table.sort);
  const shown = shownRuns();
  shown.sort((a, b) => compare(value(a), value(b)) || (a.label < b.label ? -1 : 1));
  byId('table').tBodies[0].replaceChildren(...shown.map((run) => table.rows.get(run.key)));
  for (const head of byId('table').tHead.querySelectorAll('th[data-column]')) {
    const isSorted = head.dataset.column === table.sort;
    if (isSorted) head.setAttribute('aria-sort', table.ascending ? 'ascending' : 'descending');
    else head.removeAttribute('aria-sort');
  }
  byId('table-empty').hidden = shown.length > 0;
  byId('table-empty').textContent = store.data.runs.length ? 'No run matches the filter.' : 'There are no runs here yet.';
  showCounts(shown.length);
}

// What is missing stands last, whichever way the rest is sorted.
function compare(a, b) {
  if (a === null || b === null) return (a === null) - (b === null);
  const order = typeof a === 'number' && typeof b === 'number' ? a - b : String(a).localeCompare(String(b), 'en', { numeric: true });
  return table.ascending ? order : -order;
}

function showCounts(numShown) {
  byId('counts').textContent = `${numShown} of ${store.data.runs.length} shown, ${store.picks.length} picked`;
}

// Ticks and colours, without touching anything else in the table.
function markPicks() {
  for (const [key, row] of table.rows) {
    const picked = isPicked(key);
    row.classList.toggle('picked', picked);
    row.querySelector('input').checked = picked;
    row.querySelector('.mark').replaceChildren(...(picked ? [swatch(store.runs.get(key))] : []));
  }
  showCounts(byId('table').tBodies[0].rows.length);
}
