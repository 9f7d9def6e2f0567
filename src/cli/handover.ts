/**
 * How a server learns who stands by for its target on this host, and tells it that the target is its own now: a Unix socket in
 * the folder of the meta device, which only root can enter. The multi-mount block decides who has the target
 * (storage/ownership/multi_mount.ts); without this socket a standby finds the block free some time later, and claims it.
 *
 * One line of JSON each way: the standby says who it is, and the server, as its last act, that it has handed the target over.
 * The connection says that the standby is alive. The server hands over to the one that has been connected for longest.
 */

import { rmSync } from 'node:fs';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { logger } from '../base/log.js';
import { onAbort } from '../base/wait.js';
import type { MultiMount, Successor } from '../storage/ownership/multi_mount.js';

const log = logger('cli:handover');

const NAME = 'standby';
const HANDED_OVER = JSON.stringify({ handedOver: true });
const LINE_MAX_BYTES = 4096;
const NONCE = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
/** How often a standby tries to reach a server that does not listen yet, or none that knows of standbys. */
const RETRY_MS = 250;

/** What a standby says. */
interface Hello {
  readonly dataPath: string;
  readonly successor: Successor;
}

/** The side of the server that has the target. */
export class StandbyPort {
  readonly #path: string;
  readonly #dataPath: string;
  readonly #server: Server;
  readonly #waiting = new Map<Socket, Successor>();

  private constructor(path: string, dataPath: string) {
    this.#path = path;
    this.#dataPath = dataPath;
    this.#server = createServer((socket) => this.#accept(socket));
    this.#server.unref();
  }

  /**
   * @param folder of the meta device; the caller has the target, so whatever listens there is left from before.
   * @param dataPath the data device: a standby that has another one, of the same storage, does not see what is cached of this one.
   * @returns undefined if there can be none: then standbys claim the target as on another host.
   */
  static async open(folder: string, dataPath: string): Promise<StandbyPort | undefined> {
    const port = new StandbyPort(join(folder, NAME), dataPath);
    try {
      rmSync(port.#path, { force: true });
      await new Promise<void>((resolve, reject) => {
        port.#server.once('error', reject);
        port.#server.listen(port.#path, resolve);
      });
    } catch (thrown) {
      log('no port for standbys: %O', thrown);
      return undefined;
    }
    port.#server.on('error', (error) => log('port for standbys: %O', error));
    return port;
  }

  /** The standby that has waited for longest. */
  get successor(): Successor | undefined {
    for (const successor of this.#waiting.values()) return successor;
    return undefined;
  }

  /** Ends the port. @param to has the target now; it is told. Resolves when that is sent. */
  async close(to?: Successor): Promise<void> {
    this.#server.close();
    rmSync(this.#path, { force: true });
    const sent: Promise<void>[] = [];
    for (const [socket, successor] of this.#waiting) {
      if (successor !== to) socket.destroy();
      // Not its 'close': a standby that stands still would keep this process from ending.
      else sent.push(new Promise((resolve) => socket.ref().end(`${HANDED_OVER}\n`, resolve)));
    }
    await Promise.all(sent);
  }

  #accept(socket: Socket): void {
    socket.unref();
    onLine(socket, (said) => {
      if (isHello(said) && said.dataPath === this.#dataPath) this.#waiting.set(socket, said.successor);
      else socket.destroy();
    });
    socket.on('close', () => this.#waiting.delete(socket));
  }
}

/**
 * The side of a standby: tells whatever server has the target who it is, and tells `multiMount` when the target was handed over.
 * It has looked at the block. Ends with the signal.
 * @param accepted is called when a server takes the connection: it has the target, and has bound its address.
 */
export function standInLine(
  folder: string,
  dataPath: string,
  multiMount: MultiMount,
  { accepted, signal }: { readonly accepted: () => void; readonly signal: AbortSignal },
): void {
  if (signal.aborted) return;
  const socket = createConnection(join(folder, NAME));
  socket.unref();
  const forget = onAbort(signal, () => void socket.destroy());
  socket.on('connect', () => {
    const hello: Hello = { dataPath, successor: multiMount.successor };
    socket.write(`${JSON.stringify(hello)}\n`);
    accepted();
  });
  onLine(socket, (said) => {
    if (typeof said === 'object' && said !== null && 'handedOver' in said) multiMount.given();
    socket.end();
  });
  socket.on('close', () => {
    forget();
    setTimeout(() => standInLine(folder, dataPath, multiMount, { accepted, signal }), RETRY_MS).unref();
  });
}

/** Calls back with the first line, or undefined if it is no JSON. */
function onLine(socket: Socket, call: (said: unknown) => void): void {
  let text = '';
  socket.setEncoding('utf8');
  socket.on('error', (error) => log('%O', error));
  socket.on('data', (more: string) => {
    if (text.includes('\n')) return;
    text += more;
    const [line = '', rest] = text.split('\n', 2);
    if (rest !== undefined) call(parsed(line));
    else if (text.length > LINE_MAX_BYTES) socket.destroy();
  });
}

/** Only root reaches the socket; another release may say something else. */
function isHello(said: unknown): said is Hello {
  const { dataPath, successor } = (said ?? {}) as Partial<Hello>;
  const { nonce, owner, periodMs } = (successor ?? {}) as Partial<Successor>;
  if (typeof dataPath !== 'string') return false;
  if (typeof nonce !== 'string' || !NONCE.test(nonce)) return false;
  const { host, pid, system, startedTicks } = (owner ?? {}) as Partial<Successor['owner']>;
  const numbers = [pid, startedTicks, periodMs];
  return typeof host === 'string' && typeof system === 'string' && numbers.every((it) => isCount(it));
}

function isCount(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function parsed(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}
