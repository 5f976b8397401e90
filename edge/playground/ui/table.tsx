import type { ComponentChildren } from 'preact'

type Props = {
  columns: readonly string[]
  numbers?: readonly string[]
  hasActions?: boolean
  children: ComponentChildren
}

/** A table: columns of text, then columns of numbers, then buttons without a heading if `hasActions`. */
export function Table({ columns, numbers = [], hasActions = false, children }: Props) {
  return (
    <table class={hasActions ? 'wide' : ''}>
      <thead>
        <tr>
          {columns.map((name) => (
            <th key={name} scope="col">
              {name}
            </th>
          ))}
          {numbers.map((name) => (
            <th key={name} scope="col" class="number">
              {name}
            </th>
          ))}
          {hasActions && <td />}
        </tr>
      </thead>
      <tbody>{children}</tbody>
    </table>
  )
}
