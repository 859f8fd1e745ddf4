// One panel of the viewer: the picture of a run's view with the boxes of a stage over it.

const NUM_NAMED_BOXES = 20;
const MAX_HEIGHT = 600; // pixels of the screen

function makePanel(index) {
  const select = element('select');
  const panel = { index, key: '', chosen: null, pinned: null, hovered: null, select };
  panel.caption = element('p', { class: 'hint' });
  panel.picture = element('div', { class: 'picture' });
  panel.readout = element('p', { class: 'readout', role: 'status' });
  const label = element('label', {}, index === 0 ? 'Run ' : 'Beside it ', select);
  panel.box = element('div', { class: 'panel', id: `panel-${index}` }, label, panel.caption, panel.picture, panel.readout);
  select.addEventListener('change', () => {
    panel.chosen = select.value;
    panel.pinned = null;
    drawViewer();
  });
  return panel;
}

function fillPanelOptions(panel, picked, others) {
  const named = (keys) => keys.map((key) => [key, store.runs.get(key).label]);
  const group = (label, runs) => element('optgroup', { label }, ...runs.map(([key, name]) => element('option', { value: key }, name)));
  const source = [named(picked), named(others)];
  replaceIfOther(panel.select, source, () => [
    ...(panel.index === 1 ? [element('option', { value: '' }, 'nothing')] : []),
    ...(picked.length ? [group('Picked runs', source[0])] : []),
    ...(others.length ? [group('Other runs', source[1])] : []),
  ]);
  panel.select.value = panel.key;
}

function drawPanel(panel) {
  panel.hovered = null;
  panel.found = panel.key ? viewOf(panel) : null;
  panel.picture.replaceChildren();
  panel.readout.textContent = '';
  panel.caption.textContent = panel.key ? 'This run has no view of this image.' : '';
  if (!panel.found) return;
  const { item, scene, view } = panel.found;
  panel.stage = stageOf(view);
  const byLastStage = byId('score-of').value === 'last';
  panel.proposals = chosenProposals(view, panel.stage, Number(byId('threshold').value), byLastStage);
  const noPicture = pictureSource(scene) ? '' : '; the picture is missing';
  panel.caption.textContent = `${panelTitle(panel, view)}; after step ${item.step}${noPicture}`;
  panel.picture.append(drawing(panel));
  highlight(panel);
}

// A detector without stages shows its detections, wherever the slider stands.
function stageOf(view) {
  return view.hasStages ? Math.min(viewer.stage - 1, view.numStages - 1) : 0;
}

function panelTitle(panel, view) {
  if (panel.stage < 0 && !view.hasProposals) return 'no learned proposals: the boxes begin with stage 0';
  const counts = `${panel.proposals.length} of ${view.numProposals} boxes`;
  if (!view.hasStages) return `detections: ${counts}; this detector has no stages`;
  const name = panel.stage < 0 ? 'learned proposals' : `stage ${panel.stage}${panel.stage === view.numStages - 1 ? ', the last' : ''}`;
  return `${name}: ${counts}`;
}

function drawing(panel) {
  const { scene, view } = panel.found;
  const svg = svgElement('svg', { viewBox: `0 0 ${scene.width} ${scene.height}`, role: 'img', 'aria-label': `${scene.file_name}: ${panel.caption.textContent}` });
  // As wide as its height allows: beside the picture there is nothing to draw on.
  svg.style.aspectRatio = `${scene.width} / ${scene.height}`;
  svg.style.maxWidth = `${(MAX_HEIGHT * scene.width) / scene.height}px`;
  const source = pictureSource(scene);
  if (source) svg.append(svgElement('image', { href: source, width: scene.width, height: scene.height, preserveAspectRatio: 'none' }));
  panel.heat = svgElement('g', { class: 'heat' });
  svg.append(panel.heat);
  for (const proposal of panel.proposals) {
    svg.append(rectangle(view.box(panel.stage, proposal), { class: 'box', stroke: proposalColor(proposal), 'data-proposal': proposal }));
  }
  if (byId('truth').checked) svg.append(...truthBoxes(scene));
  if (byId('names').checked && panel.stage >= 0) {
    for (const proposal of panel.proposals.slice(-NUM_NAMED_BOXES)) svg.append(boxName(panel, proposal));
  }
  svg.addEventListener('mousemove', (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    setHovered(panel, boxUnder(view, panel.stage, panel.proposals, point.x, point.y));
  });
  svg.addEventListener('mouseleave', () => setHovered(panel, null));
  svg.addEventListener('click', () => {
    panel.pinned = panel.pinned === panel.hovered ? null : panel.hovered;
    highlight(panel);
  });
  return svg;
}

function rectangle([left, top, right, bottom], attributes) {
  const size = { x: left, y: top, width: Math.max(0, right - left), height: Math.max(0, bottom - top) };
  return svgElement('rect', { ...size, fill: 'none', 'vector-effect': 'non-scaling-stroke', ...attributes });
}

function truthBoxes(scene) {
  return scene.truth_boxes.flatMap((box, index) => {
    const name = scene.classes[scene.truth_labels[index]] ?? '';
    const text = svgText(scene, box[0], box[3], name, { class: 'truth-name', fill: '#ffffff', stroke: '#000000' });
    return [rectangle(box, { class: 'truth-shadow' }), rectangle(box, { class: 'truth' }), text];
  });
}

function boxName(panel, proposal) {
  const { scene, view } = panel.found;
  const [left, top] = view.box(panel.stage, proposal);
  const text = `${view.label(panel.stage, proposal)} ${view.score(panel.stage, proposal).toFixed(2)}`;
  return svgText(scene, left, top, text, { class: 'box-name', fill: proposalColor(proposal), stroke: '#ffffff', 'data-proposal': proposal });
}

// Inside the image, whatever hangs over its edge; in pixels of the image, so that it grows with the panel.
function svgText(scene, x, y, text, attributes) {
  const size = Math.max(scene.width, scene.height) / 42;
  const inside = { x: Math.min(Math.max(x, 0) + size / 4, 0.85 * scene.width), y: Math.min(Math.max(y - size / 4, size), scene.height - size / 4) };
  return svgElement('text', { ...inside, 'font-size': size, 'stroke-width': size / 6, 'paint-order': 'stroke', ...attributes }, text);
}

function setHovered(panel, proposal) {
  if (panel.hovered === proposal) return;
  panel.hovered = proposal;
  highlight(panel);
}

// The box under the pointer, or else the one that was clicked on: bright, told in words, with where the head looks in it.
function highlight(panel) {
  const proposal = panel.hovered ?? panel.pinned;
  const svg = panel.picture.firstChild;
  svg.classList.toggle('pinned', panel.pinned !== null && panel.proposals.includes(panel.pinned));
  for (const mark of svg.querySelectorAll('[data-proposal]')) {
    const own = Number(mark.getAttribute('data-proposal'));
    mark.classList.toggle('chosen', own === proposal);
    mark.classList.toggle('kept', own === panel.pinned);
  }
  panel.heat.replaceChildren(...(byId('heat').checked && proposal !== null ? heatCells(panel, proposal) : []));
  panel.readout.textContent = proposal === null ? '' : proposalText(panel, proposal);
}

function proposalText(panel, proposal) {
  const { view } = panel.found;
  if (!view.hasStages) return `Detection ${proposal}: ${view.label(0, proposal)} ${view.score(0, proposal).toFixed(2)}`;
  const stages = Array.from({ length: view.numStages }, (_, stage) => {
    const text = `${view.label(stage, proposal)} ${view.score(stage, proposal).toFixed(2)}`;
    return stage === panel.stage ? `[${text}]` : text;
  });
  return `Proposal ${proposal}, stage by stage: ${stages.join(' → ')}`;
}

function heatCells(panel, proposal) {
  const { view } = panel.found;
  const levels = view.response(panel.stage, proposal);
  if (!levels) return [];
  const [left, top, right, bottom] = view.box(panel.stage, proposal);
  const [width, height] = [(right - left) / view.numCells, (bottom - top) / view.numCells];
  const highest = Math.max(...levels, 1);
  return Array.from(levels, (level, cell) => {
    const [column, row] = [cell % view.numCells, Math.floor(cell / view.numCells)];
    return svgElement('rect', { x: left + column * width, y: top + row * height, width, height, fill: '#ff5a00', 'fill-opacity': (0.75 * level) / highest });
  });
}
