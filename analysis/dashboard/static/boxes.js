// The numbers of a view: boxes unpacked from their bytes, and which of them are to be drawn.

const BOX_RANGE = 3; // quantised from -1 to 2 times the longer side of the image

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

// `stage` -1 is the learned proposals, where there are any; boxes are [left, top, right, bottom] in pixels of the image.
function unpackView(item, scene) {
  const boxes = new DataView(bytesOf(item.boxes).buffer);
  const scores = bytesOf(item.scores);
  const labels = new DataView(bytesOf(item.labels).buffer);
  const responses = item.responses ? bytesOf(item.responses) : null;
  const side = Math.max(scene.width, scene.height);
  const at = (stage, proposal) => stage * item.proposals + proposal;
  const numBefore = item.has_proposals ? 1 : 0; // what lies before the boxes of stage 0
  return {
    hasStages: item.has_stages,
    hasProposals: item.has_proposals,
    numStages: item.stages,
    numProposals: item.proposals,
    numCells: item.cells,
    box: (stage, proposal) =>
      [0, 1, 2, 3].map((corner) => {
        const level = boxes.getUint16(2 * (4 * at(stage + numBefore, proposal) + corner), true);
        return ((level / 65535) * BOX_RANGE - 1) * side;
      }),
    score: (stage, proposal) => (stage < 0 ? null : scores[at(stage, proposal)] / 255),
    label: (stage, proposal) => {
      if (stage < 0) return null;
      const index = at(stage, proposal);
      const label = item.label_bytes === 1 ? labels.getUint8(index) : labels.getUint16(2 * index, true);
      return scene.classes[label] ?? `class ${label}`;
    },
    response: (stage, proposal) => {
      if (!responses || stage < 0) return null;
      const size = item.cells * item.cells;
      return responses.subarray(at(stage, proposal) * size, (at(stage, proposal) + 1) * size);
    },
  };
}

// Proposals to draw, the lowest score first so that the surest lie on top. Learned proposals have no score of their own.
function chosenProposals(view, stage, threshold, byLastStage) {
  if (stage < 0 && !view.hasProposals) return [];
  const judge = byLastStage ? view.numStages - 1 : stage;
  const all = Array.from({ length: view.numProposals }, (_, proposal) => proposal);
  if (judge < 0) return all;
  const chosen = all.filter((proposal) => view.score(judge, proposal) >= threshold);
  return chosen.sort((a, b) => view.score(judge, a) - view.score(judge, b));
}

// Neighbouring proposals get colours far apart; a proposal keeps its own through all stages.
function proposalColor(proposal) {
  return `hsl(${((proposal * 137.508) % 360).toFixed(1)} 85% ${[42, 52, 34][proposal % 3]}%)`;
}

// What the user means under the pointer: the smallest box around it.
function boxUnder(view, stage, proposals, x, y) {
  let best = null;
  let smallest = Infinity;
  for (const proposal of proposals) {
    const [left, top, right, bottom] = view.box(stage, proposal);
    const area = (right - left) * (bottom - top);
    if (left <= x && x <= right && top <= y && y <= bottom && area < smallest) [best, smallest] = [proposal, area];
  }
  return best;
}
