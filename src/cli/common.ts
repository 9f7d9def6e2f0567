/** Code that the commands share: how they fail, how they read addresses, numbers and sizes. */

import { type Command, InvalidArgumentError, Option } from 'commander';
import { FsError } from '../base/errno.js';
import type { Address } from '../runtime/ports.js';

/** The port of --listen, and of addresses that name no port. */
export const DEFAULT_PORT = 7988;

/** A failure the user can act on: one line, exit status 1 (2: the command line itself is wrong). */
export class CliError extends Error {
  override name = 'CliError';
  readonly exitCode: number;
  constructor(message: string, exitCode = 1, options?: ErrorOptions) {
    super(message, options);
    this.exitCode = exitCode;
  }
}

/** Makes one line for people of any thrown value, and the exit status that goes with it. */
export function describeFailure(thrown: unknown): { readonly line: string; readonly exitCode: number } {
  if (thrown instanceof CliError) return { line: oneLine(thrown.message), exitCode: thrown.exitCode };
  if (thrown instanceof FsError) return { line: oneLine(thrown.message), exitCode: 1 };
  if (thrown instanceof Error) {
    // Not an error of ours: a bug, or a message of the system. Only the log gets the stack.
    return { line: oneLine(thrown.message), exitCode: 1 };
  }
  return { line: oneLine(String(thrown)), exitCode: 1 };
}

function oneLine(text: string): string {
  return text.split('\n').join(' ').trim();
}

/** HOST:PORT, HOST, [V6]:PORT. @throws InvalidArgumentError (usage, exit status 2). */
export function parseAddress(text: string): Address {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]\s]+))(?::(\d{1,5}))?$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = match?.[3] === undefined ? DEFAULT_PORT : Number(match[3]);
  if (host === undefined || port > 65535) {
    throw new InvalidArgumentError(`"${text}" is not HOST:PORT.`);
  }
  return { host, port };
}

/** HOST:PORT[,HOST:PORT...] */
export function parseAddresses(text: string): readonly Address[] {
  return text.split(',').map((part) => parseAddress(part.trim()));
}

export function formatAddress(address: Address): string {
  return address.host.includes(':') ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}

/** @param text seconds, as a decimal number above 0. @returns milliseconds. */
export function parseSeconds(text: string): number {
  const seconds = Number(text);
  if (!(seconds > 0) || seconds > 86_400)
    throw new InvalidArgumentError('Give seconds, above 0 and at most 86400.');
  return Math.round(seconds * 1000);
}

/** An option whose text is in seconds and whose value is in milliseconds; help shows its default in seconds. */
export function secondsOption(
  flags: string,
  help: string,
  defaultMs: number,
  parse: (text: string) => number = parseSeconds,
): Option {
  return new Option(flags, help).argParser(parse).default(defaultMs, String(defaultMs / 1000));
}

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${UNITS[unit]}`;
}

/**
 * Adds --meta and --data, which a command needs. Commander looks for missing options before it looks for unknown words, and
 * would answer "--mta DEV" with "--meta is missing". This hook looks later, so commander names the unknown word first.
 */
export function needDevices(command: Command, metaHelp = 'metadata device'): Command {
  return command
    .option('--meta <dev>', metaHelp)
    .option('--data <dev>', 'data device')
    .hook('preAction', (_, acting) => {
      for (const [name, flags] of [
        ['meta', '--meta <dev>'],
        ['data', '--data <dev>'],
      ] as const) {
        if (acting.getOptionValue(name) === undefined)
          acting.error(`error: required option '${flags}' not specified`);
      }
    });
}
