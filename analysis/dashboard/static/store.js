// What is shown: the data, the picked runs with their colours, and where the user has put the controls.

// Distinguishable with the common colour blindnesses for the first six, and on white.
const COLORS = ['#0072b2', '#d55e00', '#009e73', '#a63d85', '#c98a00', '#3d9bd6', '#5b3fa0', '#8c564b', '#4d4d4d', '#b2182b'];
const DASHES = ['solid', 'dash', 'dot', 'dashdot', 'longdash', 'longdashdot'];
const DASH_ARRAYS = { solid: '', dash: '6 4', dot: '2 3', dashdot: '6 3 2 3', longdash: '10 4', longdashdot: '10 3 2 3' };
const NUM_FIRST_PICKS = 4;

const store = {
  data: null,
  views: null,
  runs: new Map(), // key -> run, in the order of the data
  picks: [], // keys in the order of picking
  colors: new Map(), // group -> index of its colour
  dashes: new Map(), // key -> index of its dash
};

function setData(data) {
  store.data = data;
  store.runs = new Map(data.runs.map((run) => [run.key, run]));
  setPicks(store.picks);
}

// Seeds of one configuration are one group: one colour, told apart by their dashes.
function groupOf(run) {
  return run.identity ? `${run.identity} ${run.data}` : run.key;
}

// A run keeps its colour and dash for as long as it is picked.
function setPicks(keys) {
  store.picks = [...new Set(keys)].filter((key) => store.runs.get(key)?.is_run);
  const groups = new Map(store.picks.map((key) => [key, groupOf(store.runs.get(key))]));
  giveSlots(store.colors, new Set(groups.values()), () => 'one scale');
  giveSlots(store.dashes, new Set(store.picks), (key) => groups.get(key));
}

// To each name the first number that no other name of its scale has; a known name keeps its own.
function giveSlots(slots, names, scaleOf) {
  for (const name of slots.keys()) if (!names.has(name)) slots.delete(name);
  for (const name of names) {
    if (slots.has(name)) continue;
    const taken = new Set([...slots].filter(([other]) => scaleOf(other) === scaleOf(name)).map(([, slot]) => slot));
    let slot = 0;
    while (taken.has(slot)) slot += 1;
    slots.set(name, slot);
  }
}

function pickedRuns() {
  return store.picks.map((key) => store.runs.get(key));
}

function isPicked(key) {
  return store.picks.includes(key);
}

// The best few, so that the page does not open empty.
function firstPicks() {
  const usable = store.data.runs.filter((run) => run.ap || run.train?.step.length);
  return usable.sort((a, b) => (b.ap?.[0] ?? -1) - (a.ap?.[0] ?? -1)).slice(0, NUM_FIRST_PICKS).map((run) => run.key);
}

function lineStyle(run) {
  const color = store.colors.get(groupOf(run)) ?? 0;
  const dash = (store.dashes.get(run.key) ?? 0) + Math.floor(color / COLORS.length);
  return { color: COLORS[color % COLORS.length], dash: DASHES[dash % DASHES.length] };
}

function swatch(run) {
  const { color, dash } = lineStyle(run);
  const line = svgElement('line', { x1: 0, y1: 6, x2: 26, y2: 6, stroke: color, 'stroke-width': 4, 'stroke-dasharray': DASH_ARRAYS[dash] });
  return svgElement('svg', { class: 'swatch', width: 26, height: 12, 'aria-hidden': 'true' }, line);
}

// undefined where the run has no such key.
function configValue(run, key) {
  if (!run.config) return undefined;
  if (Object.hasOwn(run.config.set, key)) return run.config.set[key];
  if (run.config.absent.includes(key)) return undefined;
  return Object.hasOwn(store.data.base_config, key) ? store.data.base_config[key] : undefined;
}

// Whether a run's value is not that of most runs; null and an absent key are one and the same.
function isUnusual(run, key) {
  if (!Object.hasOwn(run.config.set, key) && !run.config.absent.includes(key)) return false;
  return (configValue(run, key) ?? null) !== null || (store.data.base_config[key] ?? null) !== null;
}

// What is unusual about a run: its factors, all or some of them, that are not as in most runs.
function unusualFactors(run, isAsked = () => true) {
  if (!run.config) return [];
  return store.data.factors
    .filter((factor) => isAsked(factor) && isUnusual(run, factor.key))
    .map(({ key, label }) => `${label}=${shortValue(key, configValue(run, key))}`);
}
