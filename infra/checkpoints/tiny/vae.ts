// The parameters of the autoencoder under the names of latent diffusion (`decoder.up.i.block.j`).
import { createConvolution, norm, type Parameter } from './parameters.ts'
import type { VaeShape } from './variants.ts'

const COLORS = 3

/** diffusers' `AutoencoderKL`; the encoder is there because published files carry it too. */
export function createVaeParameters(shape: VaeShape, channels: number): Parameter[] {
  return [...createEncoder(shape, channels), ...createDecoder(shape, channels), ...postQuantConv(shape, channels)]
}

function createEncoder(shape: VaeShape, channels: number): Parameter[] {
  const { blocks, layersPerBlock } = shape
  const widest = blocks.at(-1)!
  return [
    ...createConvolution('encoder.conv_in', COLORS, blocks[0]!, 3),
    ...blocks.flatMap((width, level) => [
      ...createResnets('encoder.down', level, blocks[Math.max(0, level - 1)]!, width, layersPerBlock),
      ...(level < blocks.length - 1 ? createConvolution(`encoder.down.${level}.downsample.conv`, width, width, 3) : []),
    ]),
    ...middle('encoder.mid', widest),
    ...norm('encoder.norm_out', widest, true),
    ...createConvolution('encoder.conv_out', widest, 2 * channels, 3),
  ]
}

function createDecoder(shape: VaeShape, channels: number): Parameter[] {
  const { blocks, layersPerBlock } = shape
  const widest = blocks.at(-1)!
  return [
    ...createConvolution('decoder.conv_in', channels, widest, 3, true),
    ...middle('decoder.mid', widest),
    ...blocks.flatMap((width, level) => [
      ...createResnets('decoder.up', level, blocks[Math.min(blocks.length - 1, level + 1)]!, width, layersPerBlock + 1),
      ...(level > 0 ? createConvolution(`decoder.up.${level}.upsample.conv`, width, width, 3, true) : []),
    ]),
    ...norm('decoder.norm_out', blocks[0]!, true),
    ...createColorParameters(blocks[0]!),
  ]
}

/** A small gain keeps most colors unclipped. */
const createColorParameters = (width: number) =>
  createConvolution('decoder.conv_out', width, COLORS, 3, true).map((p) => ({ ...p, deviation: p.deviation / 2 }))

function postQuantConv(shape: VaeShape, channels: number): Parameter[] {
  return shape.postQuantConv ? createConvolution('post_quant_conv', channels, channels, 1) : []
}

const createResnets = (at: string, level: number, inputs: number, width: number, layers: number) =>
  Array.from({ length: layers }, (_, j) => resnet(`${at}.${level}.block.${j}`, j === 0 ? inputs : width, width)).flat()

function middle(at: string, width: number): Parameter[] {
  return [
    ...resnet(`${at}.block_1`, width, width),
    ...norm(`${at}.attn_1.norm`, width, true),
    ...['q', 'k', 'v', 'proj_out'].flatMap((name) => createConvolution(`${at}.attn_1.${name}`, width, width, 1)),
    ...resnet(`${at}.block_2`, width, width),
  ]
}

function resnet(at: string, inputs: number, width: number): Parameter[] {
  return [
    ...norm(`${at}.norm1`, inputs, true),
    ...createConvolution(`${at}.conv1`, inputs, width, 3, true),
    ...norm(`${at}.norm2`, width, true),
    ...createConvolution(`${at}.conv2`, width, width, 3, true),
    ...(inputs === width ? [] : createConvolution(`${at}.nin_shortcut`, inputs, width, 1)),
  ]
}
