/**
 * The completion of bash, made from the tree of commands. It needs no package bash-completion: it reads COMP_WORDS itself.
 *
 * The script walks over the words before the cursor to find which command they name and how many arguments they have; two tables
 * (functions with a `case`) then say what may come: one of words, and one of what an option takes.
 */

import { type MountOptionInfo, wordParts } from '../../mount/option_list.js';
import type { CommandInfo, Value } from './command_tree.js';

export function bashCompletion(tree: CommandInfo, mountOptions: readonly MountOptionInfo[]): string {
  const commands = flat(tree, '');
  return `# Completion of bash for ${tree.name}, made from its commands and options by "${tree.name} completion bash".

# What an option of a command takes; fails if it takes nothing.
_${tree.name}_value() {
  case "$1 $2" in
${commands
  .flatMap(({ path, info }) =>
    info.options.flatMap(({ names, value }) =>
      value === undefined
        ? []
        : [`  ${names.map((name) => `'${path} ${name}'`).join(' | ')}) value='${wordOf(value)}' ;;`],
    ),
  )
  .join('\n')}
  *) return 1 ;;
  esac
}

# The commands and options that may follow a command, and what its arguments are.
_${tree.name}_words() {
  case $1 in
${commands
  .map(({ path, info }) => {
    const names = info.commands.map(({ name }) => name).join(' ');
    const options = info.options.flatMap((option) => option.names).join(' ');
    const values = info.arguments.map(({ value }) => `'${wordOf(value)}'`).join(' ');
    return `  '${path}') commands='${names}' options='${options}' arguments=(${values}) ;;`;
  })
  .join('\n')}
  esac
}

# Readline replaces what follows the last of its word breaks, so no reply may begin with what is before it.
_${tree.name}_shorten() {
  local current=$1 mark before
  for mark in = :; do
    if [[ $COMP_WORDBREAKS == *$mark* && $current == *$mark* ]]; then
      before=\${current%"\${current##*$mark}"}
      COMPREPLY=("\${COMPREPLY[@]#"$before"}")
      current=\${current#"$before"}
    fi
  done
}

_${tree.name}_reply() {
  local current=$1
  shift
  mapfile -t COMPREPLY < <(compgen "$@" -- "$current")
  _${tree.name}_shorten "$current"
}

_${tree.name}_files() {
  _${tree.name}_reply "$2" "$1"
  compopt -o filenames 2> /dev/null
}

# The last of the words between commas.
_${tree.name}_mount_options() {
  local current=$1 before= words='${mountOptions.map(bashWord).join(' ')}'
  [[ $current != *,* ]] || before=\${current%,*},
  case \${current##*,} in
${mountOptions.flatMap(valueArm(tree.name)).join('\n')}
  *)
    # compgen expands the words of -W: nothing that was typed may be among them.
    mapfile -t COMPREPLY < <(compgen -P "$before" -W "$words" -- "\${current##*,}")
    _${tree.name}_shorten "$current"
    compopt -o nospace 2> /dev/null
    ;;
  esac
}

_${tree.name}_offer() {
  local value=$1 current=$2
  case $value in
  file) _${tree.name}_files -f "$current" ;;
  folder) _${tree.name}_files -d "$current" ;;
  'mount options') _${tree.name}_mount_options "$current" ;;
  'one of '*) _${tree.name}_reply "$current" -W "\${value#one of }" ;;
  esac
}

_${tree.name}() {
  local path= value= commands= options= word i count=0
  local -a arguments=() words=()
  COMPREPLY=()
  # bash splits words at the characters of COMP_WORDBREAKS: puts "--option=value" and "a:b" together again.
  local joined=
  for ((i = 1; i <= COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    if ((i > 1)) && [[ $word == [=:]* || $joined == *[=:] ]]; then joined+=$word; words[-1]=$joined
    else words+=("$word"); joined=$word
    fi
  done
  local current=\${words[-1]} expects=
  unset 'words[-1]'
  _${tree.name}_words ''
  for word in "\${words[@]}"; do
    if [ -n "$expects" ]; then expects=; continue; fi
    case $word in
    --*=*) ;;
    -*) if _${tree.name}_value "$path" "$word"; then expects=$value; fi ;;
    *)
      if [[ " $commands " == *" $word "* ]]; then path=\${path:+$path }$word; _${tree.name}_words "$path"
      else count=$((count + 1))
      fi
      ;;
    esac
  done
  if [ -n "$expects" ]; then _${tree.name}_offer "$expects" "$current"
  elif [[ $current == --*=* ]]; then
    # readline replaces only what follows the "=".
    _${tree.name}_value "$path" "\${current%%=*}" && _${tree.name}_offer "$value" "\${current#*=}"
  elif [[ $current == -* ]]; then _${tree.name}_reply "$current" -W "$options"
  elif [ -n "$commands" ]; then _${tree.name}_reply "$current" -W "$commands"
  elif ((count < \${#arguments[@]})); then _${tree.name}_offer "\${arguments[count]}" "$current"
  fi
}

complete -F _${tree.name} ${tree.name}
`;
}

interface Placed {
  /** The words that lead to the command: `access add`. */
  readonly path: string;
  readonly info: CommandInfo;
}

function flat(info: CommandInfo, path: string): Placed[] {
  const below = info.commands.flatMap((one) => flat(one, path === '' ? one.name : `${path} ${one.name}`));
  return [{ path, info }, ...below];
}

function wordOf(value: Value): string {
  return value.kind === 'one of' ? `one of ${value.words.join(' ')}` : value.kind;
}

function bashWord({ word }: MountOptionInfo): string {
  const { name, value, isOptional } = wordParts(word);
  return value === undefined || isOptional ? name : `${name}=`;
}

/** What may follow the `=` of a mount option, if a shell can know it. */
function valueArm(program: string): (option: MountOptionInfo) => string[] {
  return ({ word }) => {
    const { name, value } = wordParts(word);
    if (value === 'FILE') return [`  ${name}=*) _${program}_files -f "\${current##*=}" ;;`];
    if (value?.includes('|') !== true) return [];
    return [`  ${name}=*) _${program}_reply "\${current##*=}" -W '${value.replaceAll('|', ' ')}' ;;`];
  };
}
