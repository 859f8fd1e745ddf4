// Elements and texts. Everything that comes from a run goes through textContent or an attribute, never through HTML.

const DASH = '-';

function byId(id) {
  return document.getElementById(id);
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  return filled(made, attributes, children);
}

function svgElement(tag, attributes = {}, ...children) {
  // The page's own <svg> knows the namespace, so that no address stands in here.
  return filled(document.createElementNS(byId('svg').namespaceURI, tag), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? '' : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// An open list must not close under the user because a served page has newer data: made anew only where it changes.
const madeFrom = new WeakMap();

function replaceIfOther(node, source, makeChildren) {
  const key = JSON.stringify(source);
  if (madeFrom.get(node) === key) return;
  madeFrom.set(node, key);
  node.replaceChildren(...makeChildren());
}

function setOptions(select, options, value) {
  replaceIfOther(select, options, () => options.map(([key, label]) => element('option', { value: key }, label)));
  select.disabled = options.length === 0;
  select.value = options.some(([key]) => key === value) ? value : options[0]?.[0] ?? '';
}

function formatPercent(value) {
  return value === null || value === undefined ? DASH : value.toFixed(1);
}

function formatDuration(seconds) {
  if (seconds === null || seconds === undefined) return DASH;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')}`;
}

function formatTime(iso, start = 0) {
  return iso ? iso.slice(start, 16).replace('T', ' ') : DASH;
}

function formatCount(count, what) {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}

// A dash is what a run does not have: a detector without an axis has null there, or no such key.
function formatValue(value) {
  if (value === undefined || value === null) return DASH;
  return typeof value === 'string' ? value : JSON.stringify(value);
}

// A class is told by its last name: sparse_rcnn.box_init.ImageInit is ImageInit.
function shortValue(key, value) {
  return key.endsWith('_target_') && typeof value === 'string' ? value.split('.').pop() : formatValue(value);
}

// plotly reads <b>, <a> and entities in texts as markup.
function plotText(text) {
  return String(text).replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
