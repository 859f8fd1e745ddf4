// plotly, as all charts here use it.

const PLOT_CONFIG = {
  displaylogo: false,
  responsive: true,
  // These and no others: plotly's own choice has one that uploads the chart to a company's server.
  modeBarButtons: [['toImage', 'zoom2d', 'pan2d', 'zoomIn2d', 'zoomOut2d', 'resetScale2d']],
  plotlyServerURL: '',
};
const MAX_NAMED = 24; // runs in a hover box or a bar chart; more are no longer told apart
const FONT = { family: 'system-ui, sans-serif', size: 12, color: '#1c2530' };

// `view` says what the axes mean: while it stays, a zoom stays too.
function plotLayout(view, xTitle, yTitle, more = {}) {
  const axis = { gridcolor: '#e6eaee', zerolinecolor: '#c9d1d9', automargin: true, linecolor: '#9aa5b1' };
  const { xaxis = {}, yaxis = {}, ...rest } = more;
  return {
    height: 320,
    margin: { l: 56, r: 14, t: 10, b: 46 },
    font: FONT,
    paper_bgcolor: 'rgba(0,0,0,0)',
    plot_bgcolor: '#ffffff',
    showlegend: false,
    hovermode: 'closest',
    hoverlabel: { namelength: -1, align: 'left' },
    uirevision: view,
    modebar: { bgcolor: 'rgba(255,255,255,0.85)', color: '#77828e', activecolor: '#0b5cad' },
    xaxis: { ...axis, title: { text: xTitle, standoff: 8 }, ...xaxis },
    yaxis: { ...axis, title: { text: yTitle, standoff: 6 }, ...yaxis },
    ...rest,
  };
}

function drawPlot(id, traces, layout, emptyText) {
  const isEmpty = traces.every((trace) => !trace.y.some((value) => value !== null));
  const shown = { ...layout };
  if (isEmpty) {
    shown.annotations = [{ text: plotText(emptyText), xref: 'paper', yref: 'paper', x: 0.5, y: 0.5, showarrow: false }];
    shown.xaxis = { ...layout.xaxis, showticklabels: false };
    shown.yaxis = { ...layout.yaxis, showticklabels: false };
  }
  drawWhenSeen(byId(id), () => Plotly.react(byId(id), isEmpty ? [] : traces, shown, PLOT_CONFIG));
}

function lineTrace(run, x, y, more = {}) {
  const { color, dash } = lineStyle(run);
  const isPoint = y.filter((value) => value !== null).length === 1;
  return {
    type: 'scatter',
    mode: isPoint ? 'markers' : 'lines',
    name: plotText(run.label),
    x,
    y,
    meta: run.key,
    line: { color, dash, width: 2 },
    marker: { color, size: isPoint ? 9 : 6 },
    ...more,
  };
}
