import type { ComponentChildren } from 'preact'
import { useState } from 'preact/hooks'
import { announce } from '../state/live.ts'
import { Icon, type IconName } from './icons.tsx'

type ButtonProps = {
  icon?: IconName
  /** The name of a button without text. */
  label?: string
  kind?: 'plain' | 'primary' | 'quiet' | 'danger'
  /** The keyboard shortcut of the button. */
  shortcut?: string
  isPressed?: boolean
  isDisabled?: boolean
  onClick: () => void
  children?: ComponentChildren
}

export function Button({
  icon,
  label,
  kind = 'plain',
  shortcut,
  isPressed,
  isDisabled,
  onClick,
  children,
}: ButtonProps) {
  const title = [label, shortcut && `(${shortcut})`].filter(Boolean).join(' ')
  return (
    <button
      type="button"
      class={`button ${kind}${children ? '' : ' icon-only'}`}
      {...(label !== undefined && { 'aria-label': label })}
      {...(title && { title })}
      {...(isPressed !== undefined && { 'aria-pressed': isPressed })}
      disabled={isDisabled ?? false}
      onClick={onClick}
    >
      {icon && <Icon name={icon} />}
      {children}
    </button>
  )
}

type Option<T extends string> = { value: T; text: ComponentChildren; label?: string }
type ChoiceProps<T extends string> = {
  legend: string
  name: string
  options: readonly Option<T>[]
  value: T
  onChange: (value: T) => void
}

/** A row of radio buttons. */
export function Choice<T extends string>({ legend, name, options, value, onChange }: ChoiceProps<T>) {
  return (
    <fieldset class="choice">
      <legend>{legend}</legend>
      <div class="options">
        {options.map((option) => (
          <label key={option.value} {...(option.label && { title: option.label })}>
            <input
              type="radio"
              name={name}
              value={option.value}
              checked={option.value === value}
              {...(option.label && { 'aria-label': option.label })}
              onChange={() => onChange(option.value)}
            />
            <span>{option.text}</span>
          </label>
        ))}
      </div>
    </fieldset>
  )
}

const SHOWN_MS = 1600

/** A button that copies a text and confirms it. */
export function CopyButton({
  text,
  children = 'Copy',
  kind = 'plain',
  icon = 'copy',
}: {
  text: () => string
  children?: ComponentChildren
  kind?: 'plain' | 'primary' | 'quiet'
  icon?: IconName
}) {
  const [isCopied, setCopied] = useState(false)
  const copy = async () => {
    await navigator.clipboard.writeText(text())
    setCopied(true)
    announce('Copied.')
    setTimeout(() => setCopied(false), SHOWN_MS)
  }
  return (
    <Button icon={isCopied ? 'check' : icon} kind={kind} onClick={() => void copy()}>
      {isCopied ? 'Copied' : children}
    </Button>
  )
}

/** An error message next to a field, which describes it for screen readers. */
export const FieldError = ({ id, text }: { id: string; text: string | null }) =>
  text === null ? null : (
    <p class="field-error" id={id} role="alert">
      <Icon name="warning" />
      {text}
    </p>
  )
