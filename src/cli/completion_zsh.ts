/** The completion of zsh, made from the tree of commands: a function with a call of _arguments for each command. */

import { type MountOptionInfo, wordParts } from '../../mount/option_list.js';
import type { ArgumentInfo, CommandInfo, OptionInfo, Value } from './command_tree.js';

export function zshCompletion(tree: CommandInfo, mountOptions: readonly MountOptionInfo[]): string {
  return `#compdef ${tree.name}
# Completion of zsh for ${tree.name}, made from its commands and options by "${tree.name} completion zsh".

_${tree.name}_mount_options() {
  _values -s , 'mount option' \\
    ${mountOptions.map(mountSpec).join(' \\\n    ')}
}

${functionsOf(tree, `_${tree.name}`)}
# Loaded by compinit, the file is the body of the function; by source, it only defines it.
if [ "$funcstack[1]" = "_${tree.name}" ]; then _${tree.name} "$@"; else compdef _${tree.name} ${tree.name}; fi
`;
}

/** Of the command and of all below it. */
function functionsOf(info: CommandInfo, name: string): string {
  const own =
    info.commands.length === 0
      ? argumentsCall([...info.options.map(optionSpec), ...info.arguments.map(argumentSpec)])
      : branches(info, name);
  const below = info.commands.map((one) => functionsOf(one, `${name}_${one.name}`));
  return `${name}() {\n${own}\n}\n${below.length > 0 ? `\n${below.join('\n')}` : ''}`;
}

/** A command with commands: the first word chooses the function that completes the others. */
function branches(info: CommandInfo, name: string): string {
  const specs = [...info.options.map(optionSpec), "'1: :->command'", "'*:: :->rest'"];
  return `  local curcontext=$curcontext state line
  local -a commands
${argumentsCall(specs, ' -C')}
  case $state in
  command)
    commands=(
      ${info.commands.map((one) => quoted(`${one.name}:${one.help}`)).join('\n      ')}
    )
    _describe -t commands command commands
    ;;
  rest)
    case $line[1] in
    ${info.commands.map((one) => `${one.name}) ${name}_${one.name} ;;`).join('\n    ')}
    esac
    ;;
  esac`;
}

function argumentsCall(specs: readonly string[], flags = ''): string {
  return `  _arguments -s${flags} ${['', ...specs].join(' \\\n    ')}`;
}

function optionSpec({ names, help, value }: OptionInfo): string {
  const takes = value === undefined ? '' : `:${value.name}:${action(value)}`;
  // "--option=value" and "--option value".
  const spelled = names.map((one) => (value !== undefined && one.startsWith('--') ? `${one}=` : one));
  const text = `[${escaped(help)}]${takes}`;
  if (spelled.length === 1) return quoted(`${spelled[0]}${text}`);
  return `${quoted(`(${names.join(' ')})`)}{${spelled.join(',')}}${quoted(text)}`;
}

function argumentSpec({ name, value }: ArgumentInfo): string {
  return quoted(`:${name}:${action(value)}`);
}

function action(value: Value): string {
  switch (value.kind) {
    case 'file':
      return '_files';
    case 'folder':
      return '_files -/';
    case 'mount options':
      return '_holdfast_mount_options';
    case 'one of':
      return `(${value.words.join(' ')})`;
    case 'other':
      return ' ';
  }
}

function mountSpec({ word, help }: MountOptionInfo): string {
  const { name, value } = wordParts(word);
  const text = `${name}[${escaped(help)}]`;
  if (value === undefined) return quoted(text);
  if (value === 'FILE') return quoted(`${text}:${value}:_files`);
  return quoted(`${text}:${value}:${value.includes('|') ? `(${value.replaceAll('|', ' ')})` : ' '}`);
}

/** In brackets and before colons of a specification. */
function escaped(text: string): string {
  return text.replace(/[\\[\]:]/g, '\\$&');
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
