/**
 * The network: listeners by address, connections between machines, and what goes wrong with both.
 *
 * A direction between two machines may be slow (clogged) or blocked (partitioned: bytes wait, as TCP sends them again
 * until the way is free). A connection may be cut after any byte. A machine without power answers nothing.
 *
 * A client with a key proves it as through TLS, without TLS: the listener knows the key or it does not. Others prove nothing.
 */

import { type Errno, FsError } from '../../src/base/errno.js';
import type {
  Address,
  Connection,
  ConnectionEvents,
  ConnectOptions,
  Listener,
  Origin,
  Proof,
  Timer,
  TlsListen,
  Transport,
} from '../../src/runtime/ports.js';
import type { Machine, Program } from './machine.js';
import { Pipe, type PipeEnd } from './pipe.js';
import type { SimRng } from './rng.js';
import type { Scheduler } from './scheduler.js';

/** As node_tcp.ts has it: above this much in the program's memory write() says that the peer is behind. */
const BEHIND_BYTES = 2 << 20;
/** About ten packets, which every TCP connection may have under way from its start. */
const LINE_WINDOW_MIN_BYTES = 16 << 10;

type Accept = (connection: Connection) => ConnectionEvents;

interface Listening {
  readonly program: Program;
  readonly accept: Accept;
  readonly tls: TlsListen | undefined;
}

export class SimNetwork {
  readonly scheduler: Scheduler;
  readonly rng: SimRng;
  readonly #machines = new Map<string, Machine>();
  readonly #listening = new Map<string, Listening>();
  readonly #blocked = new Set<string>();
  readonly #clogs = new Map<string, number>();
  readonly #slow = new Map<string, number>();
  readonly #lineFreeMs = new Map<string, number>();
  #waiting = new Set<Pipe>();
  readonly connections = new Set<SimSocket>();
  /** One way, without clogs. */
  baseDelayMs = 0.1;

  constructor(scheduler: Scheduler, rng: SimRng) {
    this.scheduler = scheduler;
    this.rng = rng;
  }

  add(machine: Machine): void {
    this.#machines.set(machine.name, machine);
  }

  trace(what: string): void {
    this.scheduler.trace.say('network', what);
  }

  // ---- What goes wrong.

  block(from: Machine, to: Machine): void {
    this.#blocked.add(way(from, to));
  }
  unblock(from: Machine, to: Machine): void {
    if (this.#blocked.delete(way(from, to))) this.changed();
  }
  /** Bytes of this direction take so much longer; 0: as usual. */
  clog(from: Machine, to: Machine, ms: number): void {
    if (ms === 0) this.#clogs.delete(way(from, to));
    else this.#clogs.set(way(from, to), ms);
  }
  /** From now on all that goes to (and from) this machine shares a line of so many bytes a second. */
  slow(machine: Machine, bytesASecond: number): void {
    this.#slow.set(machine.name, bytesASecond);
  }
  /** @returns when so many bytes have left the slow line; undefined without one. */
  onWire(from: Machine, to: Machine, bytes: number): number | undefined {
    const { name, rate } = this.#lineOf(from, to) ?? {};
    if (name === undefined || rate === undefined) return undefined;
    const line = from.name === name ? `${name}>` : `>${name}`;
    const free = Math.max(this.#lineFreeMs.get(line) ?? 0, this.scheduler.nowMs) + (bytes / rate) * 1000;
    this.#lineFreeMs.set(line, free);
    return free;
  }
  /** What one connection may have on a slow line: half a second of it, so that the connections on it take turns. */
  windowBytes(from: Machine, to: Machine): number | undefined {
    const line = this.#lineOf(from, to);
    return line === undefined ? undefined : Math.max(LINE_WINDOW_MIN_BYTES, line.rate >> 1);
  }
  #lineOf(from: Machine, to: Machine): { readonly name: string; readonly rate: number } | undefined {
    for (const { name } of [from, to]) {
      const rate = this.#slow.get(name);
      if (rate !== undefined) return { name, rate };
    }
    return undefined;
  }
  /** Every connection between these two breaks; what was on its way is lost. */
  breakConnections(a: Machine, b: Machine): void {
    for (const socket of [...this.connections]) {
      const ends = [socket.program.machine, socket.peerMachine];
      if (ends.includes(a) && ends.includes(b)) socket.break();
    }
  }

  /** Everything works again. */
  heal(): void {
    this.#blocked.clear();
    this.#clogs.clear();
    this.#slow.clear();
    for (const socket of this.connections) socket.cut(undefined);
    this.changed();
  }
  isBlocked(from: Machine, to: Machine): boolean {
    return this.#blocked.has(way(from, to));
  }
  delayMs(from: Machine, to: Machine): number {
    const clog = this.#clogs.get(way(from, to)) ?? 0;
    return this.baseDelayMs * (0.5 + this.rng.fraction()) + clog * this.rng.fraction();
  }
  waits(pipe: Pipe): void {
    this.#waiting.add(pipe);
  }
  /** What waited tries again. */
  changed(): void {
    const waiting = this.#waiting;
    this.#waiting = new Set();
    for (const pipe of waiting) pipe.wake();
  }

  // ---- The port.

  transport(program: Program): Transport {
    return {
      listen: (address, accept, tls) => this.#listen(program, address, accept, tls),
      connect: (address, open, options) => this.#connect(program, address, open, options),
    };
  }

  async #listen(
    program: Program,
    address: Address,
    accept: Accept,
    tls: TlsListen | undefined,
  ): Promise<Listener> {
    const key = `${address.host}:${address.port}`;
    const there = this.#listening.get(key);
    if (there?.program.alive === true) throw new FsError('EBUSY', `port ${address.port} is in use`);
    const listening = { program, accept, tls };
    this.#listening.set(key, listening);
    const close = (): void => {
      if (this.#listening.get(key) === listening) this.#listening.delete(key);
    };
    program.onEnd(close);
    return {
      address,
      close: async () => {
        close();
      },
    };
  }

  #connect(program: Program, address: Address, open: Accept, options: ConnectOptions): Promise<Connection> {
    const { signal, timeoutMs } = options;
    const here = program.machine;
    const there = this.#machines.get(address.host);
    if (there === undefined) return Promise.reject(new FsError('ENXIO', `no such host: ${address.host}`));
    return new Promise((resolve, reject) => {
      let isSettled = false;
      const fail = (code: Errno): void => {
        if (isSettled) return;
        isSettled = true;
        timeout.cancel();
        attempt?.cancel();
        signal?.removeEventListener('abort', cancelled);
        reject(new FsError(code, `connecting to ${address.host}:${address.port}`));
      };
      const cancelled = (): void => fail('ECANCELED');
      const timeout = this.scheduler.after(timeoutMs / here.clockRate, () => fail('ETIMEDOUT'), program);
      let attempt: Timer | undefined;
      // TCP is connected, and the listener takes no handshakes yet.
      const waits = ({ program: server, tls }: Listening): void => {
        server.onEnd(() => fail('ECONNREFUSED'));
        void tls?.ready()?.then(() => {
          if (!isSettled) attempt = this.scheduler.after(0, syn, program);
        });
      };
      // SYN, and again once a second while nobody answers.
      const syn = (): void => {
        const there_ = there;
        const answers = there_.hasPower && !this.isBlocked(here, there_) && !this.isBlocked(there_, here);
        const delayMs = this.delayMs(here, there_) + this.delayMs(there_, here);
        if (!answers) {
          attempt = this.scheduler.after(1000, syn, program);
          return;
        }
        attempt = this.scheduler.after(
          delayMs,
          () => {
            const listening = this.#listening.get(`${address.host}:${address.port}`);
            if (listening === undefined || !listening.program.alive) {
              fail('ECONNREFUSED');
              return;
            }
            const proof = this.#prove(program, listening, options);
            if (proof === 'later') {
              waits(listening);
            } else if (typeof proof === 'string') {
              fail(proof);
            } else {
              isSettled = true;
              timeout.cancel();
              signal?.removeEventListener('abort', cancelled);
              resolve(this.#establish(program, open, listening, proof));
            }
          },
          program,
        );
      };
      if (signal?.aborted === true) {
        cancelled();
        return;
      }
      signal?.addEventListener('abort', cancelled, { once: true });
      syn();
    });
  }

  /** @returns what the client proves to the listener, or why it does not get in; 'later': the listener is not ready. */
  #prove(program: Program, { tls }: Listening, { credentials }: ConnectOptions): Proof | Errno | 'later' {
    if (credentials === undefined || credentials.kind === 'plain') return { kind: 'none' };
    if (tls === undefined) return 'EPROTO';
    if (credentials.kind === 'certificate') return 'EOPNOTSUPP';
    if (tls.ready() !== undefined) return 'later';
    const { identity, key } = credentials;
    const known = tls.keyOf(identity);
    if (known !== undefined && Buffer.from(known).equals(key)) return { kind: 'key', identity };
    const why = known === undefined ? `unknown key "${identity}"` : `wrong key for "${identity}"`;
    tls.refused(nameOf(program), why);
    return 'EACCES';
  }

  #establish(program: Program, open: Accept, listening: Listening, proof: Proof): Connection {
    const client = new SimSocket(this, program, listening.program, true, proof);
    const server = new SimSocket(this, listening.program, program, false, proof);
    client.join(server);
    server.join(client);
    client.start(open(client));
    // The program that listens may be stopped; its kernel has accepted.
    this.scheduler.after(0, () => server.start(listening.accept(server)), listening.program);
    return client;
  }
}

function nameOf(program: Program): string {
  return `${program.machine.name}/${program.name}`;
}

function way(from: Machine, to: Machine): string {
  return `${from.name}>${to.name}`;
}

/** One end of a connection: the Connection that a program writes to. */
export class SimSocket implements Connection, PipeEnd {
  readonly peer: string;
  readonly origin: Origin;
  readonly program: Program;
  readonly #network: SimNetwork;
  readonly #intoSpace: boolean;
  #out: Pipe | undefined;
  #in: Pipe | undefined;
  #events: ConnectionEvents | undefined;
  #early: Buffer[] = [];
  #earlyEnd: 'fin' | 'rst' | undefined;
  #paused = false;
  #behind = false;
  #ending = false;
  #closed = false;
  #error: Error | undefined;

  constructor(network: SimNetwork, program: Program, other: Program, intoSpace: boolean, proof: Proof) {
    this.#network = network;
    this.program = program;
    this.peer = nameOf(other);
    // From a privileged port, as root's connections come without TLS.
    this.origin = { proof, address: '10.0.0.1', port: 1000, sameHost: false };
    this.#intoSpace = intoSpace;
    network.connections.add(this);
    program.onEnd((how) => this.#programEnded(how));
  }

  join(other: SimSocket): void {
    this.#out = new Pipe(this.#network, this, other);
    other.#in = this.#out;
  }

  start(events: ConnectionEvents): void {
    this.#events = events;
    for (const chunk of this.#early.splice(0)) this.received(chunk);
    if (this.#earlyEnd !== undefined) this.receivedEnd(this.#earlyEnd);
    if (this.#closed) this.#tellClosed();
  }

  get peerMachine(): Machine | undefined {
    return this.#out?.toMachine;
  }

  /** Now, and without what has not arrived yet. */
  break(): void {
    this.#in?.lose();
    if (!this.#closed) this.receivedEnd('rst');
  }

  /** Breaks after so many more bytes of what this end sends have arrived. undefined: not any more. */
  cut(afterBytes: number | undefined): void {
    if (this.#out !== undefined) this.#out.cutAfterBytes = afterBytes;
  }

  // ---- Connection.

  get takenBytes(): number {
    return this.#out?.takenBytes ?? 0;
  }
  get bufferedBytes(): number {
    return this.#out?.unsentBytes ?? 0;
  }
  write(chunks: readonly Uint8Array[], sent?: () => void): boolean {
    if (this.#ending || this.#closed || !this.program.alive) return true;
    this.#out?.write(chunks, sent);
    if (this.bufferedBytes > BEHIND_BYTES) this.#behind = true;
    return !this.#behind;
  }
  pause(): void {
    this.#paused = true;
  }
  resume(): void {
    this.#paused = false;
    this.#in?.wake();
  }
  end(): void {
    if (this.#ending || !this.program.alive) return;
    this.#ending = true;
    this.#paused = false;
    this.#out?.end('fin', false);
    this.#in?.wake();
    // The peer may never answer with its own.
    this.#network.scheduler.after(1000, () => this.#close(), this.program);
  }
  destroy(error?: Error): void {
    if (!this.program.alive) return;
    this.#ending = true;
    this.#error ??= error;
    this.#out?.end('rst', true);
    this.#close();
  }

  // ---- PipeEnd.

  get isOpen(): boolean {
    return !this.#closed;
  }
  get isPaused(): boolean {
    return this.#paused;
  }
  received(chunk: Buffer): void {
    const events = this.#events;
    if (events === undefined) {
      this.#early.push(chunk);
      return;
    }
    if (this.#ending) return;
    if (!this.#intoSpace || events.space === undefined) {
      events.data(chunk);
      return;
    }
    for (let at = 0; at < chunk.length && !this.#closed && !this.#ending; ) {
      const space = events.space();
      const part = chunk.subarray(at, at + space.length);
      space.set(part);
      at += part.length;
      events.data(space.subarray(0, part.length));
    }
  }
  receivedEnd(how: 'fin' | 'rst'): void {
    if (this.#events === undefined) {
      this.#earlyEnd = how;
      return;
    }
    if (how === 'rst') this.#error ??= new Error('connection reset by peer');
    else this.#out?.end('fin', false);
    this.#close();
  }
  left(): void {
    if (!this.#behind || this.#closed) return;
    if (this.bufferedBytes > 0) return;
    this.#behind = false;
    this.#events?.drain();
  }

  #close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#network.connections.delete(this);
    if (this.#events !== undefined) this.#tellClosed();
  }
  #tellClosed(): void {
    this.#network.scheduler.after(0, () => this.#events?.closed(this.#error), this.program);
  }

  #programEnded(how: 'exit' | 'kill' | 'power'): void {
    this.#network.connections.delete(this);
    if (this.#closed) return;
    this.#closed = true;
    // The kernel closes what a process leaves open; without power nobody does.
    if (how === 'power') this.#out?.silence();
    else this.#out?.end('rst', how === 'kill');
    this.#in?.receiverGone();
  }
}
