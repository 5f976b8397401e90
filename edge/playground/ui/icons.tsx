// Icons of 16 by 16 units, drawn with lines of the text's color.
const PATHS = {
  cancel: 'M4 4l8 8M12 4l-8 8',
  check: 'M3 8.5l3.5 3.5L13 4.5',
  code: 'M5.5 4.5L2 8l3.5 3.5M10.5 4.5L14 8l-3.5 3.5',
  compare: 'M8 2v12M2.5 4h3v8h-3zM10.5 4h3v8h-3z',
  copy: 'M5.5 5.5h8v8h-8zM3 10.5H2.5v-8h8V3',
  dice: 'M2.5 2.5h11v11h-11zM5.5 5.5h.01M10.5 10.5h.01M8 8h.01M10.5 5.5h.01M5.5 10.5h.01',
  download: 'M8 2v8.5M4.5 7L8 10.5 11.5 7M2.5 13.5h11',
  key: 'M10.5 2a3.5 3.5 0 1 1-3.2 5L2 12.3V14h2.5v-1.7h1.7v-1.7h1.6L9 8.7M11 5h.01',
  link: 'M6.5 9.5l3-3M7.5 4.5l1.6-1.6a2.8 2.8 0 0 1 4 4L11.5 8.5M8.5 11.5l-1.6 1.6a2.8 2.8 0 0 1-4-4L4.5 7.5',
  lock: 'M3.5 7.5h9v6h-9zM5.5 7.5V5a2.5 2.5 0 0 1 5 0v2.5',
  unlock: 'M3.5 7.5h9v6h-9zM5.5 7.5V5a2.5 2.5 0 0 1 4.8-1',
  moon: 'M13 9.5A5.5 5.5 0 0 1 6.5 3 5.5 5.5 0 1 0 13 9.5z',
  receipt: 'M3.5 2v12l2-1.2 2.5 1.2 2.5-1.2 2 1.2V2l-2 1.2L8 2 5.500 3.2zM6 7h4M6 9.500h4',
  reuse: 'M13 8a5 5 0 1 1-1.500-3.600M13 2v3h-3',
  sun: 'M8 5.200a2.800 2.800 0 1 1 0 5.600 2.800 2.800 0 0 1 0-5.600zM8 1.500v1.500M8 13v1.500M1.500 8H3M13 8h1.500M3.400 3.400l1 1M11.600 11.600l1 1M3.400 12.600l1-1M11.600 4.400l1-1',
  system: 'M8 2a6 6 0 1 1 0 12A6 6 0 0 1 8 2zM8 2v12',
  trash: 'M3 4.500h10M6.500 4.500V2.500h3v2M4.500 4.500l.5 9h6l.5-9M6.800 7v4M9.200 7v4',
  wait: 'M8 2a6 6 0 1 1 0 12A6 6 0 0 1 8 2zM8 5v3.500l2 1.500',
  warning: 'M8 2.500L14.500 13.500h-13zM8 6.500v3M8 11.500h.01',
} as const
export type IconName = keyof typeof PATHS

export const Icon = ({ name }: { name: IconName }) => (
  <svg class="icon" viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
    <path d={PATHS[name]} />
  </svg>
)
