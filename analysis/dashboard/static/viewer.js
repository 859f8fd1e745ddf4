// The viewer: one or two runs on the same image, stage by stage.

const viewer = { image: null, stage: null, panels: [], unpacked: new Map() };

function startViewer() {
  viewer.panels = [0, 1].map((index) => makePanel(index));
  byId('panels').append(...viewer.panels.map((panel) => panel.box));
  byId('stage').addEventListener('input', (event) => setStage(Number(event.target.value)));
  for (const id of ['threshold', 'score-of', 'truth', 'names', 'heat']) byId(id).addEventListener('input', drawPanels);
  byId('viewer').addEventListener('keydown', (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move || event.target.tagName === 'SELECT' || event.target.type === 'range') return; // these move by themselves
    event.preventDefault();
    setStage(Number(byId('stage').value) + move);
  });
}

function setViews(newer) {
  store.views = newer;
  viewer.unpacked.clear();
}

// Read when they are first needed: they are most of the page.
function views() {
  store.views ??= JSON.parse(byId('views').textContent);
  return store.views;
}

function setStage(stage) {
  viewer.stage = Math.min(Math.max(stage, Number(byId('stage').min)), Number(byId('stage').max));
  byId('stage').value = viewer.stage;
  drawPanels();
}

// All of it: after other picks or other data. What the user has chosen stays where it still exists.
function drawViewer() {
  const keys = [...store.runs.keys()].filter((key) => views().runs[key]?.length);
  byId('viewer-empty').hidden = keys.length > 0;
  byId('viewer-body').hidden = keys.length === 0;
  byId('viewer-notes').replaceChildren(...views().notes.map((note) => element('li', {}, note)));
  if (!keys.length) return;
  const picked = store.picks.filter((key) => keys.includes(key));
  const others = keys.filter((key) => !picked.includes(key));
  for (const panel of viewer.panels) {
    if (panel.chosen && !keys.includes(panel.chosen)) panel.chosen = null;
    const automatic = panel.index === 0 ? picked[0] ?? keys[0] : picked.find((key) => key !== viewer.panels[0].key) ?? '';
    panel.key = panel.chosen ?? automatic;
    fillPanelOptions(panel, picked, others);
  }
  drawImages();
}

function imagesOf(key) {
  return (views().runs[key] ?? []).map((item) => ({ item, scene: views().scenes[item.scene] }));
}

// Runs on other copies of the data may have another JPEG of the same image.
function imageName(scene) {
  return `${scene.image_id} ${scene.file_name} ${scene.width}x${scene.height}`;
}

// The images of the first panel's run as pictures to click on.
function drawImages() {
  const images = imagesOf(viewer.panels[0].key);
  if (!images.some(({ scene }) => imageName(scene) === viewer.image)) viewer.image = imageName(images[0].scene);
  const focused = byId('images').contains(document.activeElement);
  byId('images').replaceChildren(
    ...images.map(({ scene }) => {
      const name = imageName(scene);
      const source = pictureSource(scene);
      const content = source ? element('img', { src: source, alt: '' }) : element('span', { class: 'no-picture' }, 'no picture');
      const button = element('button', { type: 'button', title: scene.file_name, 'aria-pressed': String(name === viewer.image) }, content, element('span', {}, `image ${scene.image_id}`));
      button.addEventListener('click', () => {
        viewer.image = name;
        viewer.panels.forEach((panel) => { panel.pinned = null; });
        drawImages();
      });
      return button;
    }),
  );
  if (focused) byId('images').querySelector('[aria-pressed="true"]')?.focus();
  setStages(viewer.panels.map((panel) => viewOf(panel)?.view).filter((view) => view));
}

// The slider over what the shown views have; it leaves with what it has no use for where none has stages.
function setStages(found) {
  const last = Math.max(1, ...found.map((view) => view.numStages));
  const atEnd = viewer.stage === null || viewer.stage === Number(byId('stage').max);
  byId('stage').min = found.some((view) => view.hasProposals) ? 0 : 1;
  byId('stage').max = last;
  const hasStages = found.some((view) => view.hasStages);
  for (const node of document.querySelectorAll('#viewer [data-stages]')) node.hidden = !hasStages;
  if (!hasStages) byId('score-of').value = 'own';
  setStage(atEnd ? last : viewer.stage);
}

function pictureSource(scene) {
  const picture = scene.picture && views().pictures[scene.picture];
  return picture ? `data:image/jpeg;base64,${picture}` : null;
}

// The view of the chosen image in a panel's run, or null.
function viewOf(panel) {
  const image = imagesOf(panel.key).find(({ scene }) => imageName(scene) === viewer.image);
  if (!image) return null;
  if (!viewer.unpacked.has(image.item)) viewer.unpacked.set(image.item, unpackView(image.item, image.scene));
  return { ...image, view: viewer.unpacked.get(image.item) };
}

function drawPanels() {
  const stage = viewer.stage - 1;
  const name = stage < 0 ? 'learned proposals' : `stage ${stage}`;
  byId('stage-name').textContent = name;
  byId('stage').setAttribute('aria-valuetext', name);
  byId('threshold-value').textContent = Number(byId('threshold').value).toFixed(2);
  viewer.panels.forEach(drawPanel);
}
