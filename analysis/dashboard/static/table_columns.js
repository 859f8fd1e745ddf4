// The columns of the table: for each what it shows, by what it sorts, and how wide it is.

function columns(withFactors) {
  const { runs, factors, ap_names: names } = store.data;
  const several = (read) => new Set(runs.filter((run) => run.is_run).map(read)).size > 1;
  const name = { id: 'name', label: 'Run', value: (run) => run.label, cell: nameCell };
  const aps = names.map((ap, index) => ({
    id: ap,
    label: ap,
    number: true,
    className: 'ap',
    value: (run) => run.ap?.[index] ?? null,
    text: (run) => formatPercent(run.ap?.[index]),
  }));
  // Where runs differ in their detector it has a column of its own, and is none of the unusual factors.
  const detector = factors.filter(isDetector).map((factor) => ({
    ...factorColumn(factor),
    label: 'Detector',
    className: 'detector',
    mark: null,
  }));
  const about = [
    { id: 'recipe', label: 'Recipe', value: (run) => run.recipe ?? null },
    ...(several((run) => run.data) ? [{ id: 'data', label: 'Data', value: (run) => run.data ?? null }] : []),
    { id: 'seed', label: 'Seed', number: true, value: (run) => run.seed ?? null },
    { id: 'state', label: 'State', value: (run) => run.state, cell: stateCell },
  ];
  const times = [
    { id: 'time', label: 'Time', number: true, value: (run) => run.seconds ?? null, text: (run) => formatDuration(run.seconds) },
    { id: 'created', label: 'Created', title: 'month-day hour:minute, UTC', value: (run) => run.created_at ?? null, text: (run) => formatTime(run.created_at, 5) },
  ];
  const unusual = {
    id: 'factors',
    label: 'Unusual factors',
    title: 'Keys of the configuration in which a run differs from most runs here',
    className: 'factors',
    value: (run) => unusualFactors(run, (factor) => !isDetector(factor)).join(', ') || null,
  };
  // Many columns do not fit beside each other; AP stays next to the names then.
  return withFactors ? [name, ...aps, ...factors.map(factorColumn), ...about, ...times] : [name, ...detector, unusual, ...about, ...aps, ...times];
}

function isDetector({ label }) {
  return label === 'detector';
}

function factorColumn({ key, label, also }) {
  return {
    id: `factor ${key}`,
    label,
    title: [key, ...also].join('\n'),
    value: (run) => factorValue(run, key),
    text: (run) => (run.config ? shortValue(key, configValue(run, key)) : DASH),
    mark: (run) => run.config && isUnusual(run, key),
  };
}

function factorValue(run, key) {
  const value = configValue(run, key);
  if (value === undefined || value === null) return null;
  return typeof value === 'number' ? value : shortValue(key, value);
}

function cellText(column, run) {
  if (column.text) return column.text(run);
  const value = column.value(run);
  return value === null ? DASH : String(value);
}

function nameCell(run) {
  const cell = element('th', { scope: 'row', class: 'name', title: run.key });
  // A long name breaks at its underscores.
  const parts = run.label.split(/(?<=_)/).flatMap((part) => [part, element('wbr')]);
  cell.append(element('span', { class: 'label' }, ...parts));
  const others = (run.experiments ?? []).filter((name) => name !== run.name);
  if (others.length) cell.append(element('span', { class: 'also' }, `also ${others.join(', ')}`));
  for (const problem of run.problems) cell.append(element('span', { class: 'problem' }, problem));
  if (run.error) cell.append(element('span', { class: 'problem' }, run.error));
  return cell;
}

function stateCell(run) {
  const cell = element('td', {}, element('span', { class: `state state-${STATES.includes(run.state) ? run.state : 'other'}` }, run.state));
  if (run.state !== 'finished' && run.step !== null && run.step !== undefined && run.num_steps) {
    cell.append(element('span', { class: 'progress', title: `step ${run.step} of ${run.num_steps}` }, ` ${Math.floor((100 * run.step) / run.num_steps)}%`));
  }
  return cell;
}

const STATES = ['finished', 'running', 'silent', 'dead', 'interrupted', 'failed', 'created', 'foreign', 'newer', 'unreadable'];
