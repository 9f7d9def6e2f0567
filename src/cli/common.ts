/** How the commands read addresses, numbers and the names of devices from their command lines. */

import { type Command, InvalidArgumentError, Option } from 'commander';
import { LEVELS, type Level } from '../base/notices.js';
import type { Address } from '../runtime/ports.js';

/** The port of --listen, and of addresses that name no port. */
export const DEFAULT_PORT = 7988;

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

export function logLevelOption(): Option {
  return new Option('--log-level <level>', `least important lines that are logged: ${LEVELS.join(', ')}`)
    .argParser((text: string): Level => {
      const level = LEVELS.find((one) => one === text);
      if (level === undefined) throw new InvalidArgumentError(`Give one of ${LEVELS.join(', ')}.`);
      return level;
    })
    .default('info');
}
