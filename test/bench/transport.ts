/**
 * node dist/test/bench/transport.js [--rounds 12] [--count 5000] [--bulks 200]: what a connection costs, over each
 * implementation of Transport, in turns. Client and server are two processes. The figures are microseconds of processor time of
 * one side, which depend little on what else the machine does; the lowest of the rounds. unix: over a Unix socket of the addon;
 * path: one that has a path. tls: TLS 1.3 with a key, by the addon; node:tls: the same by Node. trust.ts measures some of it.
 */

import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { tcpTransport } from '../../src/runtime/node_tcp.js';
import { nodeTransport } from '../../src/runtime/node_transport.js';
import type { Address, Connection, ConnectionEvents, Transport } from '../../src/runtime/ports.js';
import { overTls, takingKeys, WITH_KEY } from '../fixtures/carriers.js';
import { option } from './figures.js';

const KINDS = ['node:net', 'addon', 'node:tls', 'tls', 'unix', 'path'] as const;
export type Kind = (typeof KINDS)[number];

const SMALL_BYTES = 150;
const BULK_BYTES = 1 << 20;
/** A bulk is asked for by one small message. */
const ASKS_BULK = 0xff;
const AT_ONCE = 16;

const TRANSPORTS: Readonly<Record<Kind, Transport>> = {
  'node:net': tcpTransport('node:net'),
  addon: tcpTransport('addon'),
  'node:tls': overTls(takingKeys(), WITH_KEY, 'node:net'),
  tls: overTls(takingKeys(), WITH_KEY),
  unix: nodeTransport,
  path: {
    ...nodeTransport,
    listen: (_address, accept) =>
      nodeTransport.listen({ host: `${tmpdir()}/holdfast-bench-${process.pid}.sock`, port: 0 }, accept),
  },
};

/** Counts messages of a fixed length in what arrives. */
class Messages implements ConnectionEvents {
  readonly #lengthBytes: () => number;
  readonly #message: (first: number) => void;
  #have = 0;
  #first = 0;
  #memory = Buffer.allocUnsafeSlow(BULK_BYTES);

  constructor(lengthBytes: () => number, message: (first: number) => void) {
    this.#lengthBytes = lengthBytes;
    this.#message = message;
  }

  space(): Buffer {
    return this.#memory;
  }

  data(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#have === 0) this.#first = chunk[at] as number;
      const taken = Math.min(this.#lengthBytes() - this.#have, chunk.length - at);
      this.#have += taken;
      at += taken;
      if (this.#have < this.#lengthBytes()) continue;
      this.#have = 0;
      this.#message(this.#first);
    }
  }

  drain(): void {}

  closed(): void {}
}

/** Answers each small message with a small one, or with a bulk. What one read brought is answered in one write. */
function answering(connection: Connection): ConnectionEvents {
  const small = Buffer.alloc(SMALL_BYTES);
  const bulk = Buffer.alloc(BULK_BYTES);
  let answers: Buffer[] = [];
  return new Messages(
    () => SMALL_BYTES,
    (first) => {
      answers.push(first === ASKS_BULK ? bulk : small);
      if (answers.length > 1) return;
      queueMicrotask(() => {
        connection.write(answers);
        answers = [];
      });
    },
  );
}

function cpuUs(): number {
  const { user, system } = process.cpuUsage();
  return user + system;
}

export interface Cost {
  readonly clientUs: number;
  readonly serverUs: number;
  readonly wallUs: number;
}

export class Server {
  readonly #child: ChildProcess;
  readonly address: Address;

  private constructor(child: ChildProcess, address: Address) {
    this.#child = child;
    this.address = address;
  }

  static async start(kind: Kind): Promise<Server> {
    const child = fork(fileURLToPath(import.meta.url), ['--serve', kind], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    const [address] = (await once(child, 'message')) as [Address];
    return new Server(child, address);
  }

  async cpuUs(): Promise<number> {
    this.#child.send('cpu');
    const [us] = (await once(this.#child, 'message')) as [number];
    return us;
  }

  async end(): Promise<void> {
    this.#child.disconnect();
    await once(this.#child, 'exit');
  }
}

async function serve(kind: Kind): Promise<void> {
  const listener = await TRANSPORTS[kind].listen({ host: '127.0.0.1', port: 0 }, answering);
  process.send?.(listener.address);
  process.on('message', () => process.send?.(cpuUs()));
  await once(process, 'disconnect');
  await listener.close();
  process.exit();
}

/** What one side asks the other for. */
export interface Exchange {
  readonly name: string;
  readonly asksBulk: boolean;
  readonly count: number;
  /** Messages under way at a time. */
  readonly atOnce: number;
}

export const SMALL = { name: 'small request and reply', asksBulk: false, atOnce: 1 } as const;
export const BULK = { name: 'reply of 1 MiB', asksBulk: true, atOnce: 1 } as const;

export async function measureExchange(
  kind: Kind,
  server: Server,
  { asksBulk, count, atOnce }: Exchange,
): Promise<Cost> {
  const first = asksBulk ? ASKS_BULK : 0;
  const ask = Buffer.alloc(SMALL_BYTES, first);
  let waiting = 0;
  let left = count;
  let finished = (): void => {};
  const done = new Promise<void>((resolve) => {
    finished = resolve;
  });
  const connection = await TRANSPORTS[kind].connect(
    server.address,
    (made) =>
      new Messages(
        () => (asksBulk ? BULK_BYTES : SMALL_BYTES),
        () => {
          waiting -= 1;
          left -= 1;
          if (left === 0) finished();
          if (left <= 0 || waiting > 0) return;
          waiting = atOnce;
          made.write(new Array(atOnce).fill(ask));
        },
      ),
    { timeoutMs: 5000 },
  );
  const serverBefore = await server.cpuUs();
  const before = cpuUs();
  const beganMs = performance.now();
  waiting = atOnce;
  connection.write(new Array(atOnce).fill(ask));
  await done;
  const wallUs = ((performance.now() - beganMs) * 1000) / count;
  const clientUs = (cpuUs() - before) / count;
  const serverUs = ((await server.cpuUs()) - serverBefore) / count;
  connection.destroy();
  return { clientUs, serverUs, wallUs };
}

async function main(): Promise<void> {
  const count = option('count', 5000);
  const rows: readonly Exchange[] = [
    { ...SMALL, count },
    { ...SMALL, name: `the same, ${AT_ONCE} in a write`, count: count * 4, atOnce: AT_ONCE },
    { ...BULK, count: option('bulks', 200) },
  ];
  const servers = new Map<Kind, Server>();
  for (const kind of KINDS) servers.set(kind, await Server.start(kind));
  try {
    for (const row of rows) {
      const costs = new Map<Kind, Cost[]>(KINDS.map((kind) => [kind, []]));
      // The first round warms both sides up.
      for (let round = 0; round <= option('rounds', 12); round++) {
        for (const kind of KINDS) {
          const server = servers.get(kind) as Server;
          const cost = await measureExchange(kind, server, row);
          if (round > 0) costs.get(kind)?.push(cost);
        }
      }
      for (const [kind, all] of costs) {
        const show = (of: (cost: Cost) => number): string =>
          Math.min(...all.map(of))
            .toFixed(1)
            .padStart(7);
        process.stdout.write(
          `${row.name.padEnd(28)} ${kind.padEnd(9)} client ${show((cost) => cost.clientUs)} us, ` +
            `server ${show((cost) => cost.serverUs)} us, wall ${show((cost) => cost.wallUs)} us\n`,
        );
      }
    }
  } finally {
    for (const server of servers.values()) await server.end();
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const served = process.argv.indexOf('--serve');
  await (served < 0 ? main() : serve(process.argv[served + 1] as Kind));
}
