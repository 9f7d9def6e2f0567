/**
 * The commands and options as plain data: what --help, the man pages and the completions of the shells have in common. Made from
 * the Command objects themselves, so that nothing is described twice. Data, because it crosses from main.js to a command that is a
 * bundle of its own (bundle.mjs).
 */

import type { Argument, Command, Option } from 'commander';

/** What a shell can offer for a value. */
export type Value =
  | { readonly kind: 'file' | 'folder' | 'mount options' | 'other' }
  | { readonly kind: 'one of'; readonly words: readonly string[] };

export interface OptionInfo {
  /** As help shows it: `-f, --force`, `--meta <dev>`. */
  readonly flags: string;
  readonly names: readonly string[];
  readonly help: string;
  /** Undefined: it takes none. */
  readonly value: (Value & { readonly name: string }) | undefined;
}

export interface ArgumentInfo {
  readonly name: string;
  readonly help: string;
  readonly value: Value;
}

export interface CommandInfo {
  readonly name: string;
  readonly help: string;
  /** Without the name: `[options] <source> <mountpoint>`. */
  readonly usage: string;
  readonly arguments: readonly ArgumentInfo[];
  readonly options: readonly OptionInfo[];
  readonly commands: readonly CommandInfo[];
}

/** By the name of the value in help. */
const KINDS: Readonly<Record<string, 'file' | 'folder' | 'mount options'>> = {
  file: 'file',
  dev: 'file',
  dir: 'folder',
  mountpoint: 'folder',
  options: 'mount options',
};

/** @returns what help shows of the command and of those below it, except `help` itself. */
export function commandTree(command: Command): CommandInfo {
  const help = command.createHelp();
  return {
    name: command.name(),
    help: help.subcommandDescription(command),
    usage: command.usage(),
    arguments: command.registeredArguments.map((argument) => ({
      name: argument.name(),
      help: help.argumentDescription(argument),
      value: shellValue(argument, argument.name()),
    })),
    options: help.visibleOptions(command).map((option) => optionInfo(option, help.optionDescription(option))),
    commands: help
      .visibleCommands(command)
      .filter((one) => one.name() !== 'help')
      .map(commandTree),
  };
}

function optionInfo(option: Option, help: string): OptionInfo {
  const [, name] = /[<[]([^>\]]+)[>\]]/.exec(option.flags) ?? [];
  return {
    flags: option.flags,
    names: [option.short, option.long].filter((one) => one !== undefined),
    help,
    value: name === undefined ? undefined : { ...shellValue(option, name), name },
  };
}

function shellValue({ argChoices }: Option | Argument, name: string): Value {
  if (argChoices !== undefined) return { kind: 'one of', words: argChoices };
  return { kind: KINDS[name] ?? 'other' };
}
