// The layers of gpu-fn as forbidden rules for .dependency-cruiser.cjs. Type imports count, so it needs `tsPreCompilationDeps: true`.

const CONTRACT = ['contract', 'manifest', 'dtype']

/** Each layer, top first: its files below gpu-fn/ and the layers that it may import besides itself. */
const LAYERS = {
  main: { path: 'main\\.ts$', imports: ['config', 'server', 'engine', 'pipeline', 'weights'] },
  server: { path: 'server/', imports: ['engine', 'pipeline', 'runtime', ...CONTRACT] },
  engine: { path: 'engine/', imports: ['weights', 'pipeline', 'runtime', 'tokenizer', ...CONTRACT] },
  pipeline: { path: 'pipeline/', imports: ['runtime', 'tokenizer', ...CONTRACT] },
  runtime: { path: 'runtime/', imports: ['manifest', 'dtype'] },
  weights: { path: 'weights/', imports: ['config', ...CONTRACT] },
  config: { path: 'config\\.ts$', imports: ['contract', 'manifest'] },

  'compile/main': { path: 'compile/main\\.ts$', imports: ['compile', 'models', 'compile/checkpoint', ...CONTRACT] },
  compile: {
    path: 'compile/[^/]+$',
    imports: ['models', 'compile/write', 'compile/graph', 'compile/checkpoint', ...CONTRACT],
  },
  models: { path: 'models/', imports: ['compile/lower', 'compile/graph', 'compile/checkpoint', ...CONTRACT] },
  'compile/lower': { path: 'compile/lower/', imports: ['compile/graph', ...CONTRACT] },
  'compile/write': {
    path: 'compile/write/',
    imports: ['compile/graph', 'compile/checkpoint', 'tokenizer', ...CONTRACT],
  },
  'compile/graph': { path: 'compile/graph/', imports: ['compile/checkpoint', 'manifest', 'dtype'] },
  'compile/checkpoint': { path: 'compile/checkpoint/', imports: [] },

  tokenizer: { path: 'tokenizer/', imports: [] },
  manifest: { path: 'manifest\\.ts$', imports: ['contract', 'dtype'] },
  contract: { path: 'contract\\.ts$', imports: [] },
  dtype: { path: 'dtype\\.ts$', imports: [] },
}

const pathOf = (layer) => `^gpu-fn/${LAYERS[layer].path}`

const layerRules = Object.entries(LAYERS).map(([layer, { imports }]) => ({
  name: `gpu-fn-${layer.replace('/', '-')}`,
  severity: 'error',
  comment: `gpu-fn ${layer} may import ${imports.length > 0 ? imports.join(', ') : 'no other layer'}.`,
  from: {
    path: pathOf(layer),
    // The pattern of the folder compile/ includes its entry point, which has a rule of its own.
    ...(layer === 'compile' && { pathNot: pathOf('compile/main') }),
  },
  to: { path: '^gpu-fn/', pathNot: [layer, ...imports].map(pathOf) },
}))

module.exports = [
  {
    name: 'gpu-fn-cycle',
    severity: 'error',
    comment: 'No import cycles, type imports included.',
    from: { path: '^gpu-fn/' },
    to: { circular: true },
  },
  {
    name: 'gpu-fn-alone',
    severity: 'error',
    comment: 'The container of the GPU function holds gpu-fn/ and none of our other folders.',
    from: { path: '^gpu-fn/' },
    to: { path: '^(edge|infra|test)/' },
  },
  ...layerRules,
]
