/**
 * The file of a fleet (docs/FLEETS.md): read, checked, and with every default filled in. Whatever is wrong is said with the file, the
 * line and what is allowed.
 */

import { readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { parse, TomlError } from 'smol-toml';
import { CliError } from '../failure.js';
import { lineOf, type Place } from './file_lines.js';
import { minutesOfDay, type Window } from './window.js';

export interface Host {
  readonly name: string;
  readonly address: string;
  /** A line of the shell: what it is given as its last argument runs on the host. */
  readonly run: string;
  /** Files of keys and certificates that have to be valid there. */
  readonly keys: readonly string[];
}

export interface ServerPlace {
  readonly host: string;
  /** HOST:PORT, as the host itself reaches its server. */
  readonly listen: string;
}

export interface Target {
  readonly label: string;
  /** One or two. */
  readonly servers: readonly ServerPlace[];
  /** A line of the shell of the host: when it has ended, the server serves, stands by, or will soon. */
  readonly start: string;
  /** A line of the shell of the host that ends the server; undefined: `holdfast shutdown`. */
  readonly stop: string | undefined;
  /** A cluster manager decides which of the two hosts serves: there is no standby, and `start` lets the host serve again. */
  readonly isManaged: boolean;
  readonly group: string;
}

export interface Client {
  readonly host: string;
  readonly mountpoint: string;
  /** Label of its target. */
  readonly target: string;
  readonly group: string;
}

export interface Group {
  readonly name: string;
  readonly after: readonly string[];
  readonly atOnce: number;
  readonly pauseMs: number;
}

export const BUILT_IN = ['no-evictions', 'mounts-full', 'standby-there'] as const;
export type BuiltIn = (typeof BUILT_IN)[number];

export interface Condition {
  readonly host: string;
  readonly command: string;
  readonly limitMs: number;
}

export interface Fleet {
  readonly path: string;
  readonly statePath: string;
  /** With {version}. */
  readonly root: string;
  readonly startLimitMs: number;
  readonly hosts: readonly Host[];
  readonly targets: readonly Target[];
  readonly clients: readonly Client[];
  /** In an order that `after` allows. */
  readonly groups: readonly Group[];
  readonly health: readonly BuiltIn[];
  readonly conditions: readonly Condition[];
  readonly window: Window | undefined;
}

const DEFAULT_GROUP = 'all';
/** Asks nobody for a password, and notices within half a minute that a host is gone. */
const DEFAULT_RUN =
  'ssh -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=10 -o ServerAliveCountMax=3 {host}';
const DEFAULT_ROOT = '/opt/holdfast-{version}';
const DEFAULT_START = '{root}/bin/holdfast use {version} && systemctl start holdfast-serve@{label}';
const DEFAULT_PORT = 7988;
const AT_ONCE_MAX = 1000;
const PORT_MAX = 65_535;
const LISTEN = /^(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9][A-Za-z0-9._-]*):(\d{1,5})$/;
/** What may stand in a line of the shell without quotes. */
const NAME = /^[A-Za-z0-9][A-Za-z0-9._:@%-]*$/;
const UNIT_MS: Readonly<Record<string, number>> = { s: 1000, m: 60_000, h: 3_600_000 };

type Table = Readonly<Record<string, unknown>>;

/** @throws CliError for a file that is not there or not right. */
export function readFleet(path: string): Fleet {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    throw new CliError(`${path} cannot be read: ${(cause as Error).message}`, 1, { cause });
  }
  return parseFleet(text, path);
}

export function parseFleet(text: string, path: string): Fleet {
  let table: Table;
  try {
    table = parse(text);
  } catch (cause) {
    if (!(cause instanceof TomlError)) throw cause;
    const [reason = ''] = cause.message.split('\n');
    throw new CliError(`${path}:${cause.line}: no TOML: ${reason}`, 1, { cause });
  }
  return new Reader(text, path, table).fleet();
}

class Reader {
  readonly #text: string;
  readonly #path: string;
  readonly #top: Table;

  constructor(text: string, path: string, top: Table) {
    this.#text = text;
    this.#path = path;
    this.#top = top;
  }

  fleet(): Fleet {
    const top = this.#top;
    this.#known(
      top,
      [],
      [
        'run',
        'root',
        'state',
        'window',
        'start_limit',
        'health',
        'host',
        'target',
        'client',
        'group',
        'condition',
      ],
    );
    const run = this.#string(top, [], 'run', DEFAULT_RUN);
    const hosts = this.#tables('host').map((host, at) => this.#host(host, ['host', at], run));
    if (hosts.length === 0) this.#wrong([], 'there is no [[host]]');
    this.#unique(
      'host',
      hosts.map(({ name }) => [name]),
      'name',
    );
    const names = hosts.map(({ name }) => name);
    const groups = this.#groups();
    const groupNames = groups.map(({ name }) => name);
    const targets = this.#tables('target').map((one, at) =>
      this.#target(one, ['target', at], hosts, groupNames),
    );
    this.#unique(
      'target',
      targets.map(({ label }) => [label]),
      'label',
    );
    const labels = targets.map(({ label }) => label);
    const clientTables = this.#tables('client').map((one, at) =>
      this.#client(one, ['client', at], names, labels, groupNames),
    );
    this.#unique(
      'target',
      targets.map(({ servers }) => servers.map(({ host, listen }) => `${host} ${listen}`)),
      'listen',
    );
    this.#unique(
      'client',
      clientTables.map((clients) => clients.map(({ host, mountpoint }) => `${host}:${mountpoint}`)),
      'mountpoint',
    );
    const clients = clientTables.flat();
    if (targets.length + clients.length === 0) this.#wrong([], 'there is no [[target]] and no [[client]]');
    return {
      path: this.#path,
      statePath: this.#statePath(),
      root: this.#root(),
      startLimitMs: this.#duration(top, [], 'start_limit', 60_000),
      hosts,
      targets,
      clients,
      groups,
      health: this.#health(),
      conditions: this.#tables('condition').map((one, at) => this.#condition(one, ['condition', at], names)),
      window: this.#window(),
    };
  }

  #host(table: Table, place: Place, run: string): Host {
    this.#known(table, place, ['name', 'address', 'run', 'keys']);
    const name = this.#name(table, place, 'name');
    const address = table.address === undefined ? name : this.#name(table, place, 'address');
    const line = this.#string(table, place, 'run', run);
    const keys = table.keys === undefined ? [] : this.#strings(table, place, 'keys');
    for (const path of keys) this.#absolute(path, [...place, 'keys']);
    return { name, address, run: line.replaceAll('{host}', name).replaceAll('{address}', address), keys };
  }

  #target(table: Table, place: Place, hosts: readonly Host[], groups: readonly string[]): Target {
    this.#known(table, place, ['label', 'hosts', 'listen', 'start', 'stop', 'standby', 'group']);
    const label = this.#name(table, place, 'label');
    const names = this.#strings(table, place, 'hosts');
    if (names.length < 1 || names.length > 2)
      this.#wrong([...place, 'hosts'], 'hosts has one name, or two for a pair');
    if (names.length === 2 && names[0] === names[1])
      this.#wrong([...place, 'hosts'], 'the two hosts of a pair are different ones');
    const listen = table.listen === undefined ? undefined : this.#strings(table, place, 'listen');
    if (listen !== undefined && listen.length !== names.length)
      this.#wrong([...place, 'listen'], 'listen has one HOST:PORT for each of hosts, in their order');
    const servers = names.map((name, at) => {
      const host = hosts.find((one) => one.name === name);
      if (host === undefined)
        return this.#unknown(
          [...place, 'hosts'],
          'host',
          name,
          hosts.map((one) => one.name),
        );
      const address = listen?.[at] ?? `${host.address}:${DEFAULT_PORT}`;
      const [, port = ''] = LISTEN.exec(address) ?? [];
      if (port === '' || Number(port) > PORT_MAX)
        this.#wrong([...place, 'listen'], `"${address}" is not HOST:PORT`);
      return { host: name, listen: address };
    });
    const start = this.#string(table, place, 'start', DEFAULT_START);
    const stop = table.stop === undefined ? undefined : this.#string(table, place, 'stop');
    const { standby = true } = table;
    if (typeof standby !== 'boolean') this.#wrong([...place, 'standby'], 'standby is true or false');
    const isManaged = standby === false;
    if (isManaged && (servers.length !== 2 || table.start === undefined || stop === undefined))
      this.#wrong([...place, 'standby'], 'a pair without a standby has two hosts, start and stop');
    return { label, servers, start, stop, isManaged, group: this.#group(table, place, groups) };
  }

  #client(
    table: Table,
    place: Place,
    hosts: readonly string[],
    labels: readonly string[],
    groups: readonly string[],
  ): Client[] {
    this.#known(table, place, ['host', 'mountpoint', 'target', 'group']);
    const host = this.#oneOf(table, place, 'host', hosts);
    const target = this.#oneOf(
      table,
      place,
      'target',
      labels,
      'target',
      labels.length === 1 ? labels[0] : undefined,
    );
    const group = this.#group(table, place, groups);
    const given = table.mountpoint;
    const isOne = typeof given === 'string';
    const paths = isOne
      ? [this.#string(table, place, 'mountpoint')]
      : this.#strings(table, place, 'mountpoint');
    return paths.map((path) => {
      this.#absolute(path, [...place, 'mountpoint']);
      return { host, mountpoint: resolve(path), target, group };
    });
  }

  #absolute(path: string, place: Place): void {
    if (!path.startsWith('/')) this.#wrong(place, `"${path}" does not begin with /`);
  }

  #groups(): readonly Group[] {
    const given = this.#tables('group').map((table, at): Group => {
      const place: Place = ['group', at];
      this.#known(table, place, ['name', 'after', 'at_once', 'pause']);
      const after = table.after === undefined ? [] : this.#strings(table, place, 'after');
      return {
        name: this.#name(table, place, 'name'),
        after,
        atOnce: this.#count(table, place, 'at_once', 1),
        pauseMs: this.#duration(table, place, 'pause', 0),
      };
    });
    const names = given.map(({ name }) => name);
    this.#unique(
      'group',
      names.map((name) => [name]),
      'name',
    );
    given.forEach(({ after }, at) => {
      for (const name of after) {
        if (!names.includes(name)) this.#unknown(['group', at, 'after'], 'group', name, names);
      }
    });
    if (given.length === 0) return [{ name: DEFAULT_GROUP, after: [], atOnce: 1, pauseMs: 0 }];
    return this.#inOrder(given);
  }

  /** As in the file, unless `after` says otherwise. */
  #inOrder(given: readonly Group[]): readonly Group[] {
    const ordered: Group[] = [];
    let left = [...given];
    while (left.length > 0) {
      const next = left.find(({ after }) => after.every((name) => ordered.some((one) => one.name === name)));
      if (next === undefined) {
        const circle = left.map(({ name }) => name).join(', ');
        return this.#wrong(
          ['group', given.indexOf(left[0] as Group), 'after'],
          `these wait for each other: ${circle}`,
        );
      }
      ordered.push(next);
      left = left.filter((one) => one !== next);
    }
    return ordered;
  }

  #condition(table: Table, place: Place, hosts: readonly string[]): Condition {
    this.#known(table, place, ['host', 'run', 'limit']);
    return {
      host: this.#oneOf(table, place, 'host', hosts),
      command: this.#string(table, place, 'run'),
      limitMs: this.#duration(table, place, 'limit', 10_000),
    };
  }

  #health(): readonly BuiltIn[] {
    if (this.#top.health === undefined) return BUILT_IN;
    return this.#strings(this.#top, [], 'health').map((word) => {
      const known = BUILT_IN.find((one) => one === word);
      return known ?? this.#unknown(['health'], 'condition', word, BUILT_IN);
    });
  }

  #window(): Window | undefined {
    const { window } = this.#top;
    if (window === undefined) return undefined;
    const [, from = '', to = ''] = /^(\d\d:\d\d)-(\d\d:\d\d)$/.exec(String(window)) ?? [];
    const [fromMinute, toMinute] = [minutesOfDay(from), minutesOfDay(to)];
    if (fromMinute === undefined || toMinute === undefined || fromMinute === toMinute)
      return this.#wrong(['window'], 'window is two times of the day, as "22:00-05:00"');
    return { fromMinute, toMinute, text: `${from}-${to}` };
  }

  #root(): string {
    const root = this.#string(this.#top, [], 'root', DEFAULT_ROOT);
    if (!root.startsWith('/') || !root.includes('{version}'))
      this.#wrong(['root'], `root begins with / and has {version}, as "${DEFAULT_ROOT}"`);
    return root;
  }

  #statePath(): string {
    const given = this.#string(this.#top, [], 'state', '');
    if (given === '') return `${this.#path}.state.json`;
    return given.startsWith('/') ? given : join(dirname(this.#path), given);
  }

  #group(table: Table, place: Place, groups: readonly string[]): string {
    return this.#oneOf(table, place, 'group', groups, 'group', groups.length === 1 ? groups[0] : undefined);
  }

  #tables(name: string): readonly Table[] {
    const given = this.#top[name];
    if (given === undefined) return [];
    if (!Array.isArray(given) || given.some((one) => typeof one !== 'object' || one === null))
      this.#wrong([name], `each ${name} is a table of its own: [[${name}]]`);
    return given as readonly Table[];
  }

  #string(table: Table, place: Place, key: string, otherwise?: string): string {
    const value = table[key] ?? otherwise;
    if (value === undefined) return this.#wrong(place, `${key} is missing`);
    if (typeof value !== 'string') return this.#wrong([...place, key], `${key} is a text`);
    return this.#whole(value, [...place, key]);
  }

  #name(table: Table, place: Place, key: string): string {
    const value = this.#string(table, place, key);
    if (!NAME.test(value))
      this.#wrong(
        [...place, key],
        `${key} has letters, digits and . _ : @ % - only, and begins with a letter or a digit`,
      );
    return value;
  }

  #strings(table: Table, place: Place, key: string): readonly string[] {
    const value = table[key];
    if (value === undefined) return this.#wrong(place, `${key} is missing`);
    if (!Array.isArray(value) || value.some((one) => typeof one !== 'string'))
      return this.#wrong([...place, key], `${key} is a list of texts`);
    return (value as readonly string[]).map((one) => this.#whole(one, [...place, key]));
  }

  /** No program can be given a text with a zero in it. */
  #whole(text: string, place: Place): string {
    return text.includes('\0') ? this.#wrong(place, 'a zero byte is in the text') : text;
  }

  #oneOf(
    table: Table,
    place: Place,
    key: string,
    allowed: readonly string[],
    what = key,
    otherwise?: string,
  ): string {
    const value = this.#string(table, place, key, otherwise);
    return allowed.includes(value) ? value : this.#unknown([...place, key], what, value, allowed);
  }

  #count(table: Table, place: Place, key: string, otherwise: number): number {
    const value = table[key] ?? otherwise;
    if (typeof value !== 'number' || !Number.isInteger(value) || value < 1 || value > AT_ONCE_MAX)
      return this.#wrong([...place, key], `${key} is a whole number from 1 to ${AT_ONCE_MAX}`);
    return value;
  }

  #duration(table: Table, place: Place, key: string, otherwiseMs: number): number {
    const value = table[key];
    if (value === undefined) return otherwiseMs;
    const [, number = '', unit = ''] = /^(\d{1,6})([smh])$/.exec(String(value)) ?? [];
    if (number === '') return this.#wrong([...place, key], `${key} is a time, as "30s", "5m" or "1h"`);
    return Number(number) * (UNIT_MS[unit] ?? 0);
  }

  #known(table: Table, place: Place, keys: readonly string[]): void {
    for (const key of Object.keys(table)) {
      if (!keys.includes(key))
        this.#wrong([...place, key], `there is no key ${key} here; there are: ${keys.join(', ')}`);
    }
  }

  /** @param values of each table. */
  #unique(name: string, values: readonly (readonly string[])[], key: string): void {
    const known = new Set<string>();
    values.forEach((ofTable, at) => {
      for (const value of ofTable) {
        if (known.has(value)) this.#wrong([name, at, key], `there are two of the ${key} ${value}`);
        known.add(value);
      }
    });
  }

  #unknown(place: Place, what: string, value: string, allowed: readonly string[]): never {
    const there = allowed.length === 0 ? 'there is none' : `there are: ${allowed.join(', ')}`;
    return this.#wrong(place, `there is no ${what} ${value}; ${there}`);
  }

  #wrong(place: Place, what: string): never {
    throw new CliError(`${this.#path}:${lineOf(this.#text, place)}: ${what}`);
  }
}
