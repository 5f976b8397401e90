// From an open ControlNet to the graphs of its package.
import { CheckpointError } from '../../compile/checkpoint/error.ts'
import type { Tensor } from '../../compile/checkpoint/tensor.ts'
import { buildGraph, type GraphSettings } from '../../compile/graph/build-graph.ts'
import { Ledger } from '../../compile/graph/ledger.ts'
import type { Family } from '../family.ts'
import { assertAgrees, assertOneOf, countOf, type Json, requireInteger, shapeOf } from './configurations.ts'
import { CONTROLNET } from './names/controlnet-names.ts'
import { type ControlNetConfig, control, controlConditioning } from './networks/controlnet.ts'
import { createSd35Precision } from './precision.ts'

type Tensors = ReadonlyMap<string, Tensor>

/** As published, attention heads are 64 wide. */
const HEAD_WIDTH = 64

/** diffusers controlnet_sd3.py `SD3ControlNetModel` */
export function deriveControlNet(tensors: Tensors, config?: Json): ControlNetConfig {
  const file = `${CONTROLNET}/config.json`
  const [width, channels, patchSize] = shapeOf(CONTROLNET, tensors, 'pos_embed_input.proj.weight') as [
    number,
    number,
    number,
  ]
  const headWidth = typeof config?.attention_head_dim === 'number' ? config.attention_head_dim : HEAD_WIDTH
  const derived: ControlNetConfig = {
    depth: countOf(tensors, /^controlnet_blocks\.(\d+)\./),
    width,
    heads: requireInteger(CONTROLNET, 'the number of attention heads', width / headWidth),
    patchSize,
    channels,
    pooledWidth: shapeOf(CONTROLNET, tensors, 'time_text_embed.text_embedder.linear_1.weight')[1]!,
  }
  assertAgrees(CONTROLNET, config, {
    num_layers: derived.depth,
    num_attention_heads: derived.heads,
    in_channels: channels,
    patch_size: patchSize,
    pooled_projection_dim: derived.pooledWidth,
  })
  for (const key of ['use_pos_embed', 'force_zeros_for_pooled_projection'])
    assertOneOf(file, config, key, [false, null])
  assertOneOf(file, config, 'joint_attention_dim', [null])
  assertOneOf(file, config, 'qk_norm', [null])
  assertOneOf(file, config, 'extra_conditioning_channels', [0, null])
  return derived
}

export const buildControlnet: Family['buildControlnet'] = (
  checkpoint,
  paths,
  { tier },
  { lowering, withoutKernels },
) => {
  const tensors = checkpoint.networks[CONTROLNET]
  if (!tensors) throw new CheckpointError(paths.join(', '), 'has no ControlNet')
  const config = deriveControlNet(tensors, checkpoint.config[CONTROLNET])
  const ledger = new Ledger(CONTROLNET, tensors)
  const settings: GraphSettings = { lowering, precision: createSd35Precision(tier), probes: false }
  const graphs = {
    control_conditioning: buildGraph('control_conditioning', ledger, settings, (s) => controlConditioning(s, config)),
    control: buildGraph('control', ledger, settings, (s) => control(s, config)),
  }
  ledger.assertComplete()
  const substitute =
    withoutKernels &&
    buildGraph('control', new Ledger(CONTROLNET, tensors), { ...settings, lowering: withoutKernels }, (s) =>
      control(s, config),
    )
  const { depth, width, channels, patchSize, pooledWidth } = config
  return {
    graphs,
    withoutKernels: substitute,
    shape: { layers: depth, width, channels, patch_size: patchSize, pooled_width: pooledWidth },
  }
}
