/**
 * npm run bench -- --table trust: what keys cost, beside the same without (`tls=off`). Each figure is how many times as long it takes
 * with a key.
 *
 * All that is compared takes turns (A B A B) in one run, and the figure is the median of the ratios of the rounds. Rounds in which
 * other processes took too much are repeated, as in the main table.
 * - Between two processes: transport.ts over loopback, and over a Unix socket.
 * - Through a mount in a network namespace, to a server on the other end of a veth pair.
 * - Upgrades: clients in the namespace, and the server on this machine.
 *
 * Keys have --no-root-squash: what is checked by the server, and written back by no client, would be compared otherwise.
 */

import { type Host, Network } from '../fixtures/hosts.js';
import { PeerContender } from './contender.js';
import { atMost, type Figure, measured, middle } from './figures.js';
import { descendantsUs, watchLoad } from './load.js';
import { sizesOf } from './main_table.js';
import type { BenchOptions } from './options.js';
import { reached } from './peers/holdfast.js';
import type { Row, RowResult } from './row.js';
import { BYTES_ROWS } from './rows/bytes.js';
import { runRow, type Turns, undisturbed } from './runner.js';
import { BenchSession } from './session.js';
import { formatNumber } from './tables.js';
import { BULK, type Cost, type Exchange, type Kind, measureExchange, Server, SMALL } from './transport.js';
import { type Trust, UpgradedServer } from './upgrade_turns.js';

export const TRUST_PARTS = ['transport', 'mount', 'upgrade', 'pause'] as const;
export type TrustPart = (typeof TRUST_PARTS)[number];

const GIB = 2 ** 30;
const KEY = 'with a key';
const OFF = 'tls=off';
/** A round of exchanges is short: so many more of them, for each round of the bench. */
const EXCHANGE_ROUNDS = 5;
const SMALL_COUNT = 3000;
const BULK_COUNT = 60;
const UPGRADE_GOAL = 1.3;
const CLIENTS = 100;
const OPENS = 100_000;
const PAUSE_CLIENTS = 4;
const PAUSE_OPENS = 400;
const STAT_SECONDS = '1';
const SIGNALS = ['SIGINT', 'SIGTERM'] as const;

const STATFS: Row = {
  name: 'statfs',
  unit: '/s',
  better: 'higher',
  group: 'bytes',
  drop: 'nothing',
  run: (at) => at.rate('statfs', at.folder, STAT_SECONDS),
};
const MOUNT_ROWS: readonly Row[] = [
  ...BYTES_ROWS.filter(({ name }) => ['sequential write + fsync', 'sequential read, cold'].includes(name)),
  STATFS,
];

type Say = (line: string) => void;

function ratioOf(over: readonly number[], under: readonly number[]): number {
  return middle(over.map((value, at) => value / (under[at] ?? Number.NaN)));
}

function noteOf(texts: readonly string[], disturbed: number): string {
  const more = disturbed > 0 ? [`${disturbed} runs disturbed`] : [];
  return [...texts, ...more].join('; ');
}

/** What takes turns, and what came out of it in each round. */
async function inTurns<K, T>(
  kinds: readonly K[],
  rounds: number,
  turns: Turns,
  ready: (kind: K) => Promise<void>,
  measure: (kind: K) => Promise<T>,
): Promise<{ readonly of: ReadonlyMap<K, readonly T[]>; readonly disturbed: number }> {
  const of = new Map<K, T[]>(kinds.map((kind) => [kind, []]));
  let disturbed = 0;
  // The first round warms both sides up.
  for (let round = 0; round <= rounds; round++) {
    for (const kind of kinds) {
      const run = await undisturbed(
        turns,
        () => ready(kind),
        () => measure(kind),
      );
      if (round === 0) continue;
      of.get(kind)?.push(run.measured);
      if (run.isDisturbed) disturbed++;
    }
  }
  return { of, disturbed };
}

/** Over TCP, with its name in the table, and what is compared with it. */
const TCP: Kind = 'addon';
const COMPARED: readonly { readonly kind: Kind; readonly name: string }[] = [
  { kind: 'tls', name: 'TLS with a key' },
  { kind: 'unix', name: 'Unix socket' },
];

async function measureTransports(turns: Turns): Promise<Figure[]> {
  const kinds = [TCP, ...COMPARED.map(({ kind }) => kind)];
  const servers = new Map<Kind, Server>();
  const figures: Figure[] = [];
  const exchanges: readonly Exchange[] = [
    { ...BULK, count: BULK_COUNT },
    { ...SMALL, count: SMALL_COUNT },
  ];
  try {
    for (const kind of kinds) servers.set(kind, await Server.start(kind));
    for (const exchange of exchanges) {
      const { of, disturbed } = await inTurns(
        kinds,
        turns.rounds * EXCHANGE_ROUNDS,
        turns,
        async () => undefined,
        (kind) => measureExchange(kind, servers.get(kind) as Server, exchange),
      );
      const all = (kind: Kind, value: (cost: Cost) => number): number[] => (of.get(kind) ?? []).map(value);
      const show = (kind: Kind): string => {
        const [wall, client, server] = [
          middle(all(kind, ({ wallUs }) => wallUs)),
          middle(all(kind, ({ clientUs }) => clientUs)),
          middle(all(kind, ({ serverUs }) => serverUs)),
        ].map(formatNumber);
        return `${wall} us (processor ${client} + ${server})`;
      };
      for (const { kind, name } of COMPARED) {
        const ratio = ratioOf(
          all(kind, ({ wallUs }) => wallUs),
          all(TCP, ({ wallUs }) => wallUs),
        );
        const note = noteOf([show(kind), `TCP ${show(TCP)}`], disturbed);
        figures.push(measured(`${exchange.name}: ${name} : TCP`, 'times', ratio, note));
      }
    }
    return figures;
  } finally {
    for (const server of servers.values()) await server.end();
  }
}

/** @throws Error if a side failed. */
function mountFigure({ row, unit, cells }: RowResult): Figure {
  const cellOf = (peer: string): RowResult['cells'][number] => {
    const cell = cells.find((one) => one.peer === peer);
    if (cell?.median === undefined) throw new Error(`${row}, ${peer}: ${cell?.failed ?? 'not measured'}`);
    return cell;
  };
  const [key, off] = [cellOf(KEY), cellOf(OFF)];
  // Rates: the slower takes longer.
  const ratio = ratioOf(off.values, key.values);
  const text = [key, off].map(({ peer, median }) => `${peer} ${formatNumber(median ?? 0)} ${unit}`);
  return measured(
    `${row}, through a mount: key : tls=off`,
    'times',
    ratio,
    noteOf(text, key.disturbed + off.disturbed),
  );
}

async function measureMounts(
  network: Network,
  host: Host,
  options: BenchOptions,
  said: Say,
): Promise<Figure[]> {
  const sizes = sizesOf(options);
  const session = await BenchSession.open(sizes.part);
  try {
    const reach = { listen: `${network.here}:0`, clientCommand: host.command };
    const peers = [
      reached(OFF, {
        ...reach,
        serveArgs: ['--tls=off', '--from', network.range],
        mountOptions: ['tls=off'],
      }),
      reached(KEY, { ...reach, mountOptions: 'key' }),
    ];
    const deviceBytes = options.device * GIB;
    session.needRoom(peers.length * deviceBytes);
    const contenders: PeerContender[] = [];
    for (const [at, peer] of peers.entries()) {
      const { tool, sources } = session;
      const site = session.site(`trust-${at}`, deviceBytes);
      const contender = new PeerContender(peer, { site, tool, sources, sizes });
      await contender.start();
      contenders.push(contender);
    }
    const turns: Turns = {
      ...turnsOf(options),
      load: () => session.load(),
      check: () => session.check(),
    };
    const figures: Figure[] = [];
    for (const row of MOUNT_ROWS) figures.push(mountFigure(await runRow(row, contenders, turns)));
    for (const contender of contenders) await contender.stop();
    return figures;
  } catch (thrown) {
    // If the user has ended the bench, that is the reason.
    session.check();
    throw thrown;
  } finally {
    for (const forced of await session.end()) said(`ended by force: ${forced}`);
  }
}

async function measureUpgrades(
  what: string,
  { network, host }: { readonly network: Network; readonly host: Host },
  amounts: { readonly clients: number; readonly opens: number },
  turns: Turns,
  measure: (server: UpgradedServer) => Promise<number>,
  goal?: number,
): Promise<Figure[]> {
  const kinds: readonly Trust[] = ['tls=off', 'key'];
  const servers = new Map<Trust, UpgradedServer>();
  try {
    for (const trust of kinds) {
      servers.set(trust, await UpgradedServer.start(trust, { network, host }, amounts));
    }
    const serverOf = (trust: Trust): UpgradedServer => servers.get(trust) as UpgradedServer;
    const { of, disturbed } = await inTurns(
      kinds,
      turns.rounds,
      turns,
      (trust) => serverOf(trust).ready(),
      (trust) => measure(serverOf(trust)),
    );
    for (const server of servers.values()) await server.check();
    const [key, off] = [of.get('key') ?? [], of.get('tls=off') ?? []];
    const text = [`${KEY} ${Math.round(middle(key))} ms`, `${OFF} ${Math.round(middle(off))} ms`];
    const note = noteOf(text, disturbed);
    const [name, ratio] = [`${what}: key : tls=off`, ratioOf(key, off)];
    return [
      goal === undefined ? measured(name, 'times', ratio, note) : atMost(name, 'times', ratio, goal, note),
    ];
  } finally {
    for (const server of servers.values()) await server.end();
  }
}

function turnsOf({ rounds, others }: Pick<BenchOptions, 'rounds' | 'others'>): Turns {
  return {
    rounds,
    othersMax: others / 100,
    countSystemCalls: false,
    load: () => watchLoad(descendantsUs),
    check: () => undefined,
  };
}

/** What is started in it ends with this process, by handlers of its own (process 'exit'). */
async function endedBySignals<T>(run: () => Promise<T>): Promise<T> {
  const exit = (): void => process.exit(1);
  for (const signal of SIGNALS) process.once(signal, exit);
  try {
    return await run();
  } finally {
    for (const signal of SIGNALS) process.removeListener(signal, exit);
  }
}

/** @param parts which of them, in this order. */
export async function measureTrust(
  parts: readonly TrustPart[],
  options: BenchOptions,
  said: Say,
): Promise<Figure[]> {
  const network = await Network.make();
  // What was started ends by handlers of its own.
  const onExit = (): void => network.removeAtOnce();
  process.once('exit', onExit);
  const turns = turnsOf(options);
  const part = options.quick === true ? 0.1 : 1;
  const opens = Math.round(OPENS * part);
  try {
    const there = { network, host: await network.addHost('cli') };
    const measures: Readonly<Record<TrustPart, () => Promise<Figure[]>>> = {
      transport: () => endedBySignals(() => measureTransports(turns)),
      mount: () => measureMounts(network, there.host, options, said),
      upgrade: () =>
        endedBySignals(() =>
          measureUpgrades(
            `clean upgrade, ${CLIENTS} clients, ${opens} opens`,
            there,
            { clients: CLIENTS, opens },
            turns,
            (server) => server.upgrade(),
            UPGRADE_GOAL,
          ),
        ),
      pause: () =>
        endedBySignals(() =>
          measureUpgrades(
            `longest operation in an upgrade, ${PAUSE_CLIENTS} clients`,
            there,
            { clients: PAUSE_CLIENTS, opens: PAUSE_OPENS },
            turns,
            (server) => server.pause(),
          ),
        ),
    };
    const figures: Figure[] = [];
    for (const one of parts) {
      const some = await measures[one]();
      for (const { name, holdfast, note } of some) said(`${name}: ${holdfast.toFixed(2)} (${note})`);
      figures.push(...some);
    }
    return figures;
  } finally {
    process.removeListener('exit', onExit);
    await network.remove();
  }
}
