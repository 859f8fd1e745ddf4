// The charts of the picked runs. Each reads its controls and draws anew; all of them share the colours of the table.

const X_TITLES = { epoch: 'epoch', step: 'training step' };

function startCharts() {
  const { ap_names: names } = store.data;
  setOptions(byId('metric'), names.map((name) => [name, name]), 'AP');
  const redraw = { 'x-axis': [drawLoss, drawAp], loss: [drawLoss], 'log-loss': [drawLoss], metric: [drawAp, drawStages], iou: [drawPrecision], 'class-metric': [drawClasses], 'class-order': [drawClasses] };
  for (const [id, draws] of Object.entries(redraw)) {
    byId(id).addEventListener('change', () => draws.forEach((draw) => draw()));
  }
}

function drawCharts() {
  const runs = pickedRuns();
  const losses = [...new Set(runs.flatMap((run) => Object.keys(run.train?.values ?? {})))];
  setOptions(byId('loss'), losses.map((name) => [name, name]), byId('loss').value || 'total');
  const thresholds = [...new Set(runs.flatMap((run) => Object.keys(run.precision_recall ?? {})))].sort();
  setOptions(byId('iou'), thresholds.map((name) => [name, name]), byId('iou').value || '0.50');
  for (const draw of [drawLoss, drawAp, drawStages, drawPrecision, drawClasses]) draw();
}

// Column, title and unit of the horizontal axis; time in the unit that suits the longest of the picked runs.
function xAxis() {
  const column = byId('x-axis').value;
  if (column !== 'seconds') return { column, title: X_TITLES[column], unit: 1 };
  const longest = Math.max(0, ...pickedRuns().flatMap((run) => [...(run.train?.seconds ?? []), ...(run.eval?.seconds ?? [])]));
  const [unit, name] = longest < 180 ? [1, 'seconds'] : longest < 3 * 3600 ? [60, 'minutes'] : [3600, 'hours'];
  return { column, title: `${name} of work`, unit };
}

function curveX(curve, { column, unit }) {
  return curve[column].map((value) => (value === null ? null : value / unit));
}

function drawLoss() {
  const name = byId('loss').value;
  const x = xAxis();
  const isLog = byId('log-loss').checked;
  const runs = pickedRuns().filter((run) => run.train?.values[name]);
  const traces = runs.map((run) => lineTrace(run, curveX(run.train, x), run.train.values[name], { hovertemplate: `%{y:.3g} at %{x:.4~g} ${x.title}` }));
  byId('loss-title').textContent = name ? `Training loss: ${name}` : 'Training loss';
  const yaxis = isLog ? { type: 'log', dtick: 1 } : { rangemode: 'tozero' };
  const xaxis = { rangemode: 'tozero' };
  drawPlot('loss-chart', traces, plotLayout(`${x.title} ${name} ${isLog}`, x.title, 'loss', { xaxis, yaxis }), 'no training loss logged');
}

function drawAp() {
  const metric = byId('metric').value;
  const x = xAxis();
  const runs = pickedRuns().filter((run) => run.eval?.values[metric]?.length);
  const more = { hovertemplate: `${metric} %{y:.1f} at %{x:.4~g} ${x.title}` };
  const traces = runs.map((run) => {
    const trace = lineTrace(run, curveX(run.eval, x), run.eval.values[metric], more);
    return trace.mode === 'lines' ? { ...trace, mode: 'lines+markers' } : trace;
  });
  byId('ap-title').textContent = `${metric} of the validation images`;
  const layout = plotLayout(`${x.title} ${metric}`, x.title, `${metric} (%)`, { xaxis: { rangemode: 'tozero' } });
  drawPlot('ap-chart', traces, layout, `no evaluation with ${metric}`);
}

function drawStages() {
  const metric = byId('metric').value;
  const index = store.data.ap_names.indexOf(metric);
  const picked = pickedRuns();
  const runs = picked.filter((run) => run.stages?.length);
  // Left out where all that is evaluated has no stages; beside others, a run without is named.
  const without = picked.filter((run) => run.ap && !run.stages?.length);
  byId('stage-figure').hidden = !runs.length && without.length > 0;
  byId('stage-note').textContent = runs.length && without.length ? `without stages: ${without.map((run) => run.label).join(', ')}` : '';
  const traces = runs.map((run) => {
    const aps = run.stages.map(([, ap]) => ap?.[index] ?? null);
    return lineTrace(run, run.stages.map(([stage]) => stage), aps, { mode: 'lines+markers', hovertemplate: `${metric} %{y:.1f} after stage %{x}` });
  });
  byId('stage-title').textContent = `${metric} of each stage's own output`;
  const layout = plotLayout(metric, 'stage', `${metric} (%)`, { xaxis: { dtick: 1 }, yaxis: { rangemode: 'tozero' } });
  drawPlot('stage-chart', traces, layout, `no evaluation with ${metric}`);
}

function drawPrecision() {
  const threshold = byId('iou').value;
  const runs = pickedRuns().filter((run) => run.precision_recall?.[threshold]);
  const recalls = Array.from({ length: 101 }, (_, index) => index / 100);
  const traces = runs.map((run) => lineTrace(run, recalls, run.precision_recall[threshold], { hovertemplate: 'precision %{y:.2f} at recall %{x:.2f}' }));
  byId('pr-title').textContent = threshold ? `Precision over recall at IoU ${threshold}, mean of the classes` : 'Precision over recall';
  const layout = plotLayout(threshold, 'recall', 'precision', { xaxis: { range: [0, 1] }, yaxis: { range: [0, 1.02] } });
  drawPlot('pr-chart', traces, layout, 'no curves: evaluations of older versions have none');
}

function drawClasses() {
  const index = Number(byId('class-metric').value);
  const metric = index === 1 ? 'AP' : 'AP50';
  const all = pickedRuns().filter((run) => run.classes?.length);
  const runs = all.slice(0, MAX_NAMED);
  const values = new Map(runs.map((run) => [run.key, new Map(run.classes.map((row) => [row[0], row[index]]))]));
  const names = [...new Set(runs.flatMap((run) => run.classes.map(([name]) => name)))];
  if (byId('class-order').value === 'first' && runs.length) {
    const first = values.get(runs[0].key);
    names.sort((a, b) => (first.get(b) ?? -1) - (first.get(a) ?? -1));
  }
  const positions = names.map((_, position) => position);
  const traces = runs.map((run) => {
    const { color, dash } = lineStyle(run);
    const shape = { solid: '', dash: '/', dot: '.', dashdot: 'x', longdash: '-', longdashdot: '|' }[dash];
    return {
      type: 'bar',
      name: plotText(run.label),
      meta: run.key,
      x: positions,
      y: names.map((name) => values.get(run.key).get(name) ?? null),
      text: names.map(plotText),
      textposition: 'none',
      marker: { color, pattern: { shape, solidity: 0.35 } },
      hovertemplate: `%{text}: ${metric} %{y:.1f}`,
    };
  });
  const left = all.length - runs.length;
  byId('class-title').textContent = `${metric} of each class${left ? ` (the first ${MAX_NAMED} picked runs; ${left} more are left out)` : ''}`;
  // With fixed angle and room: plotly would try out both, which takes it most of a second for 80 names.
  const isSteep = names.length > 12;
  const longest = Math.max(0, ...names.map((name) => name.length));
  const xaxis = { tickmode: 'array', tickvals: positions, ticktext: names.map(plotText), tickangle: isSteep ? -60 : 0, automargin: false };
  const margin = { l: 56, r: 14, t: 10, b: isSteep ? Math.min(30 + 6 * longest, 150) : 40 };
  const view = `${metric} ${byId('class-order').value} ${names.length}`;
  drawPlot('class-chart', traces, plotLayout(view, '', `${metric} (%)`, { xaxis, yaxis: { rangemode: 'tozero' }, margin, bargap: 0.25 }), 'no evaluation by class');
}
