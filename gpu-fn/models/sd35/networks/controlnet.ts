// ControlNets of SD3.5 Large: blur, canny and depth. arXiv 2302.05543; Stability-AI/sd3.5 dit_embedder.py `ControlNetEmbedder` @ fbf8f48;
// diffusers controlnet_sd3.py `SD3ControlNetModel` with `use_pos_embed: false`.
// B batch · S image tokens · T steps · D width · P width of the pooled prompt
//
// Its blocks have tokens of the image alone, and no norms of queries and keys. The embedder of the latent is the denoiser's graph `embedding`,
// so that one ControlNet fits all denoisers of its width.
import type { Graph, Value } from '../../../compile/graph/graph.ts'
import type { Stream } from '../../../compile/graph/layer-types.ts'
import { addTo, attend, branch, conv2d, linear, modulate, toActivations, toStream } from '../../../compile/graph/nn.ts'
import * as ops from '../../../compile/graph/ops.ts'
import type { Scope } from '../../../compile/graph/scope.ts'
import {
  addModulationTable,
  addTimestepEmbedding,
  EPSILON,
  MODULATION,
  type ModulationLayout,
  type Modulations,
  mlp,
  modulationOf,
  nameResidual,
  patchesOf,
} from './mmdit.ts'

export type ControlNetConfig = {
  readonly depth: number
  readonly width: number
  readonly heads: number
  readonly patchSize: number
  /** Channels of the control image's latent. */
  readonly channels: number
  readonly pooledWidth: number
}

const layoutOf = ({ depth }: ControlNetConfig): ModulationLayout =>
  Array.from({ length: depth }, (_, block) => ({ module: `transformer_blocks.${block}`, names: MODULATION }))

const embedder = (s: Scope, x: Value, width: number): Value =>
  linear(s.at('linear_2'), ops.silu(linear(s.at('linear_1'), x, width)), width)

/** Graph `control_conditioning`: timesteps [T], pooled [B, P] → modulation [T, B, M]. It has embedders of its own. */
export function controlConditioning(s: Scope, config: ControlNetConfig): Graph {
  const { graph } = s
  const timesteps = graph.input('timesteps', 'float32', ['T'])
  const pooled = graph.input('pooled', 'float32', ['B', config.pooledWidth])
  const embedders = s.at('time_text_embed')
  const time = embedder(
    embedders.at('timestep_embedder'),
    toActivations(s, addTimestepEmbedding(timesteps)),
    config.width,
  ) // [T, D]
  const vector = embedder(embedders.at('text_embedder'), toActivations(s, pooled), config.width) // [B, D]
  graph.output('modulation', modulationOf(s, time, vector, layoutOf(config)))
  return graph
}

/**
 * Graph `control`, one step: tokens [B, S, D] of the latent, control [B, C, h, w] (the latent of the control image), modulation [B, M] and
 * scale [1] → `residual_0` … [B, S, D] in units of the stream, one for each block.
 */
export function control(s: Scope, config: ControlNetConfig): Graph {
  const { graph } = s
  const { width, patchSize } = config
  const { batch, activations } = s.lowering
  const layout = layoutOf(config)
  const tokens = graph.input('tokens', activations, [batch, 'S', width])
  const image = graph.input('control', 'float32', [batch, config.channels, 'h', 'w'])
  const modulation = graph.input('modulation', 'float32', [batch, layout.length * MODULATION.length * width])
  const scale = toActivations(s, graph.input('scale', 'float32', [1]))

  const map = s.lowering.featureMap(toActivations(s, image))
  const added = s.lowering.tokens(conv2d(s.at('pos_embed_input', 'proj'), map, width, patchesOf(patchSize)), 'S')
  let x = toStream(s, ops.add(tokens, added))
  const vectors = addModulationTable(s, modulation, config, layout)
  const residual = (index: number, { value }: Stream) => {
    const settled = project(s.at('controlnet_blocks', index), value, width)
    graph.output(nameResidual(index), ops.multiply(settled, scale))
  }
  for (const [index, { module }] of layout.entries()) {
    const { entered, left } = block(s.at(module), x, vectors, config)
    if (index > 0) residual(index - 1, entered)
    x = left
  }
  const last = s.at(layout.at(-1)!.module)
  residual(layout.length - 1, modulate(last, x, [vectors(last.path, '_mlp')], EPSILON, last.at('mlp', 'fc1')).stream)
  return graph
}

/** linear(x) of a value of the stream, in the stream's units: float16 does not hold the stream in units of 1. */
function project(s: Scope, x: Value, width: number): Value {
  const { value, bias } = branch(s, x, width)
  return bias ? ops.add(value, ops.multiply(bias, ops.scalar(bias, 1 / s.lowering.streamUnit))) : value
}

/**
 * `entered`: the stream at the block's start, with its deferred branches applied. `left`: the stream at its end. diffusers
 * transformer_sd3.py `SD3SingleTransformerBlock`
 */
function block(s: Scope, x: Stream, m: Modulations, config: ControlNetConfig): { entered: Stream; left: Stream } {
  const attn = s.at('attn')
  const msa = m(s.path, '_msa')
  const { stream, normed } = modulate(s, x, [msa], EPSILON, attn.at('qkv'))
  const [y] = attend([{ s: attn, x: normed[0]! }], { ...config, qkNorm: false, epsilon: EPSILON })
  const left = mlp(s, addTo(stream, branch(attn.at('proj'), y!, config.width, msa.gate)), m(s.path, '_mlp'))
  return { entered: stream, left }
}
