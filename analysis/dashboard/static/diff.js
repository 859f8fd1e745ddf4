// A table of the configuration keys in which the picked runs differ.

// What differs beside the configuration.
const FACTS = { commit: 'code', device: 'device', parameters: 'parameters', gflops: 'GFLOPs of an image', images_per_second: 'training images a second' };

function drawDiff() {
  const runs = pickedRuns().filter((run) => run.config);
  const keys = runs.length > 1 ? differingKeys(runs) : [];
  byId('diff').replaceChildren();
  byId('diff-note').textContent = diffNote(runs, keys);
  const facts = runs.length > 1 ? Object.keys(FACTS).filter((fact) => new Set(runs.map((run) => run[fact] ?? null)).size > 1) : [];
  if (!keys.length && !facts.length) return;
  const head = element('tr', {}, element('th', { scope: 'col' }, 'Key'));
  for (const run of runs) head.append(element('th', { scope: 'col' }, swatch(run), ' ', run.label));
  const body = element('tbody');
  for (const key of keys) {
    const row = diffRow(key, runs.map((run) => formatValue(configValue(run, key))));
    row.classList.toggle('other', store.data.other_keys.includes(key));
    body.append(row);
  }
  for (const fact of facts) {
    const row = diffRow(FACTS[fact], runs.map((run) => formatValue(run[fact] ?? undefined)));
    row.className = 'fact';
    body.append(row);
  }
  byId('diff').append(element('thead', {}, head), body);
}

function diffRow(name, values) {
  const row = element('tr', {}, element('th', { scope: 'row' }, name));
  for (const value of values) row.append(element('td', { class: value === values[0] ? null : 'unusual' }, value));
  return row;
}

// Only a key that some run has for itself can differ: the rest are as in the common part.
function differingKeys(runs) {
  const candidates = new Set(runs.flatMap((run) => [...Object.keys(run.config.set), ...run.config.absent]));
  const differs = (key) => new Set(runs.map((run) => JSON.stringify(configValue(run, key) ?? null))).size > 1;
  const isOther = (key) => store.data.other_keys.includes(key);
  return [...candidates].filter(differs).sort((a, b) => isOther(a) - isOther(b) || (a < b ? -1 : 1));
}

function diffNote(runs, keys) {
  const without = pickedRuns().length - runs.length;
  const missing = without ? ` ${formatCount(without, 'picked run')} without a readable config.json left out.` : '';
  if (runs.length < 2) return `Pick two or more runs to see the keys in which they differ.${missing}`;
  if (!keys.length) return `The configurations are equal.${missing}`;
  return `${formatCount(keys.length, 'key')}, those of paths, logging and the like last; marked where a run differs from the first picked one.${missing}`;
}
