// Names and shapes of SD3.5's autoencoder in both layouts. Stability-AI/sd3.5 sd3_impls.py `SDVAE`; diffusers `AutoencoderKL`.
import type { Shapes } from './published-shapes.ts'

const WIDTHS = [128, 256, 512, 512]
const LATENT = 16
const TOP = WIDTHS.length - 1

/** Names of the same modules in the two layouts; `level` counts from the highest resolution. */
type Names = {
  level: (side: 'encoder' | 'decoder', level: number) => string
  resnet: (index: number) => string
  resample: { encoder: string; decoder: string }
  middle: { resnets: [string, string]; attention: string }
  attention: { norm: string; projections: string[]; kernel: readonly number[] }
  shortcut: string
  normOut: string
}

const LDM: Names = {
  level: (side, level) => (side === 'encoder' ? `encoder.down.${level}` : `decoder.up.${level}`),
  resnet: (index) => `block.${index}`,
  resample: { encoder: 'downsample.conv', decoder: 'upsample.conv' },
  middle: { resnets: ['mid.block_1', 'mid.block_2'], attention: 'mid.attn_1' },
  attention: { norm: 'norm', projections: ['q', 'k', 'v', 'proj_out'], kernel: [1, 1] },
  shortcut: 'nin_shortcut',
  normOut: 'norm_out',
}

const DIFFUSERS: Names = {
  level: (side, level) => (side === 'encoder' ? `encoder.down_blocks.${level}` : `decoder.up_blocks.${TOP - level}`),
  resnet: (index) => `resnets.${index}`,
  resample: { encoder: 'downsamplers.0.conv', decoder: 'upsamplers.0.conv' },
  middle: { resnets: ['mid_block.resnets.0', 'mid_block.resnets.1'], attention: 'mid_block.attentions.0' },
  attention: { norm: 'group_norm', projections: ['to_q', 'to_k', 'to_v', 'to_out.0'], kernel: [] },
  shortcut: 'conv_shortcut',
  normOut: 'conv_norm_out',
}

export const createStabilityVae = (): Shapes => vae(LDM)
export const createDiffusersVae = (): Shapes => vae(DIFFUSERS)

function vae(names: Names): Shapes {
  const shapes: Shapes = new Map()
  const [widest, narrowest] = [WIDTHS[TOP]!, WIDTHS[0]!]
  convolution(shapes, 'encoder.conv_in', 3, narrowest)
  WIDTHS.forEach((width, level) => {
    const at = names.level('encoder', level)
    const before = WIDTHS[level - 1] ?? narrowest
    for (let i = 0; i < 2; i++) resnet(shapes, `${at}.${names.resnet(i)}`, i === 0 ? before : width, width, names)
    if (level < TOP) convolution(shapes, `${at}.${names.resample.encoder}`, width, width)
  })
  convolution(shapes, 'decoder.conv_in', LATENT, widest)
  WIDTHS.forEach((width, level) => {
    const at = names.level('decoder', level)
    const before = WIDTHS[level + 1] ?? widest
    for (let i = 0; i < 3; i++) resnet(shapes, `${at}.${names.resnet(i)}`, i === 0 ? before : width, width, names)
    if (level > 0) convolution(shapes, `${at}.${names.resample.decoder}`, width, width)
  })
  for (const side of ['encoder', 'decoder']) {
    middle(shapes, side, widest, names)
    norm(shapes, `${side}.${names.normOut}`, side === 'encoder' ? widest : narrowest)
  }
  convolution(shapes, 'encoder.conv_out', widest, 2 * LATENT)
  return convolution(shapes, 'decoder.conv_out', narrowest, 3)
}

function middle(shapes: Shapes, side: string, width: number, names: Names): void {
  for (const name of names.middle.resnets) resnet(shapes, `${side}.${name}`, width, width, names)
  const at = `${side}.${names.middle.attention}`
  norm(shapes, `${at}.${names.attention.norm}`, width)
  for (const name of names.attention.projections) {
    shapes.set(`${at}.${name}.weight`, [width, width, ...names.attention.kernel]).set(`${at}.${name}.bias`, [width])
  }
}

function resnet(shapes: Shapes, at: string, from: number, to: number, names: Names): void {
  norm(shapes, `${at}.norm1`, from)
  convolution(shapes, `${at}.conv1`, from, to)
  norm(shapes, `${at}.norm2`, to)
  convolution(shapes, `${at}.conv2`, to, to)
  if (from !== to) convolution(shapes, `${at}.${names.shortcut}`, from, to, 1)
}

function convolution(shapes: Shapes, name: string, from: number, to: number, kernel = 3): Shapes {
  return shapes.set(`${name}.weight`, [to, from, kernel, kernel]).set(`${name}.bias`, [to])
}

function norm(shapes: Shapes, name: string, width: number): void {
  shapes.set(`${name}.weight`, [width]).set(`${name}.bias`, [width])
}
