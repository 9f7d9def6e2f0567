/** How the commands read addresses, numbers and the names of devices from their command lines. */

import { type Command, InvalidArgumentError, Option } from 'commander';
import { AddressRange } from '../base/address_range.js';
import { LEVELS, type Level } from '../base/notices.js';
import type { Address } from '../runtime/ports.js';
import { ACCESS_NAME } from '../storage/api.js';
import { isServedHere, localAddress } from './local_servers.js';

/** The port of --listen, and of addresses that name no port. */
export const DEFAULT_PORT = 7988;

/** How long a mount waits for a server, without `-o retry`. */
export const MOUNT_PATIENCE_MS = 10_000;

/** HOST:PORT, HOST, [V6]:PORT, unix:/PATH. @throws InvalidArgumentError (usage, exit status 2). */
export function parseAddress(text: string): Address {
  const [, path] = /^unix:(\/.+)$/.exec(text) ?? [];
  if (path !== undefined) return { host: path, port: 0 };
  // A mount point in the place of the server: `holdfast mount DIR SOURCE`, `holdfast shutdown DIR`.
  if (/^\.{0,2}\//.test(text))
    throw new InvalidArgumentError(`"${text}" is a path, and no LABEL or HOST:PORT.`);
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]\s]+))(?::(\d{1,5}))?$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = match?.[3] === undefined ? DEFAULT_PORT : Number(match[3]);
  if (host === undefined || port > 65535) {
    throw new InvalidArgumentError(`"${text}" is not HOST:PORT.`);
  }
  return { host, port };
}

/** Where a filesystem is served, as the user names it. */
export interface Source {
  /** Of the filesystem, if the user has named it. */
  readonly label: string | undefined;
  readonly addresses: readonly Address[];
  /** A single word that this host serves nothing by: the name of a host, or the LABEL of a server that is about to start. */
  readonly word?: string;
}

/** [LABEL@]HOST:PORT[,HOST:PORT...], unix:/PATH, or LABEL of a filesystem that this host serves. @throws InvalidArgumentError */
export function parseSource(text: string): Source {
  if (isLabelHere(text)) return { label: text, addresses: [localAddress(text)] };
  const [, label, rest = text] = /^([^@/,]+)@(.+)$/.exec(text) ?? [];
  const addresses = rest.split(',').map((part) => parseAddress(part.trim()));
  return isWord(text) ? { label, addresses, word: text } : { label, addresses };
}

/** A server of this host by its LABEL, or one by its address. @throws InvalidArgumentError */
export function parseServer(text: string): Address {
  return isLabelHere(text) ? localAddress(text) : parseAddress(text);
}

/** A word that could be the name of a host counts as a label if this host serves it. */
function isLabelHere(text: string): boolean {
  return isWord(text) && isServedHere(text);
}

function isWord(text: string): boolean {
  return !/[:@/,]/.test(text);
}

/** Networks, as ADDRESS/BITS[,ADDRESS/BITS...]. @param before those of the same option earlier in the command line. */
export function parseRanges(
  text: string,
  before: readonly AddressRange[] | undefined,
): readonly AddressRange[] {
  try {
    return [...(before ?? []), ...text.split(',').map((part) => new AddressRange(part.trim()))];
  } catch (cause) {
    throw new InvalidArgumentError((cause as Error).message);
  }
}

/** The name of an entry of the access table. @throws InvalidArgumentError */
export function parseAccessName(text: string): string {
  if (ACCESS_NAME.test(text)) return text;
  throw new InvalidArgumentError(
    'A name has letters, digits, dots, _ and -, at most 64, and begins with a letter or a digit.',
  );
}

export function keyOption(): Option {
  return new Option(
    '--key <file>',
    'key file of an administrator, for a server on another host; without it the one in /etc/holdfast, if there is one',
  );
}

/** A whole number above 0. */
export function parseCount(text: string, max: number): number {
  const count = /^\d+$/.test(text) ? Number(text) : 0;
  if (count < 1 || count > max) throw new InvalidArgumentError(`Give a number from 1 to ${max}.`);
  return count;
}

const UNIT_MS: Readonly<Record<string, number>> = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };
const DURATION_MAX_MS = 3660 * 86_400_000;

/** 0, 90s, 30m, 12h, 7d. @returns milliseconds. */
export function parseDuration(text: string): number {
  const [, number = '', unit = ''] = /^(\d+)([smhd])$/.exec(text) ?? [];
  const ms = text === '0' ? 0 : Number(number || Number.NaN) * (UNIT_MS[unit] ?? Number.NaN);
  if (!(ms <= DURATION_MAX_MS)) throw new InvalidArgumentError('Give a time: 0, 90s, 30m, 12h, 7d.');
  return ms;
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
  return new Option('--log-level <level>', 'least important lines that are logged')
    .choices(LEVELS)
    .default('info' satisfies Level);
}
