/**
 * Connections to a listener that takes TLS, from their first byte until they are through: who they are is known then.
 *
 * - The first byte decides. 0x16 begins a ClientHello; anything else is plain, and goes on at once with what was read.
 * - A ClientHello is collected here, up to HELLO_MAX_BYTES in one record, before there is any state of TLS: half of one costs
 *   its bytes only. A client sends nothing behind it before it has an answer, so more bytes are refused, and the end of a
 *   connection that waits is noticed.
 * - A ClientHello that shares no key of a group that we take is refused here. OpenSSL would ask for another ClientHello, and that
 *   one may have 128 KiB.
 * - Then the connection waits, in order, until handshakes may begin (TlsListen.ready) and there is room for one more.
 * - Strangers are bounded: in number (the oldest makes room for a new one), in the bytes of their ClientHellos, and in time:
 *   STRANGER_MS for the ClientHello and again for the handshake, less if others wait behind it. Waiting costs nobody time.
 */

import { readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import type { NativeBinding } from '../../native/binding.js';
import { logger } from '../base/log.js';
import type { Destroyable } from './node_dial.js';
import type { NetConnection } from './node_net_connection.js';
import { originOf, peerOf, setOptions } from './node_peer.js';
import type { StreamConnection } from './node_stream.js';
import { TlsServer } from './node_tls_server.js';
import { turningAway } from './node_tls_texts.js';
import type { Origin, TlsListen } from './ports.js';

const log = logger('runtime:tls');

const HANDSHAKE_RECORD = 22;
const CLIENT_HELLO = 1;
const RECORD_HEADER_BYTES = 5;
/** Ours has some 300 bytes, and 1500 with a key share that withstands quantum computers. */
const HELLO_MAX_BYTES = 4 << 10;
/**
 * All strangers together cost at most about 64 MiB: one that waits costs 5 KiB and its ClientHello, a handshake 55 KiB, and with
 * the most certificates that it may send 130 KiB.
 */
const HELLOS_MAX_BYTES = 8 << 20;
const STRANGERS_MAX = 9000;
const HANDSHAKES_MAX = 128;
const CERTIFIED_HANDSHAKES_MAX = 64;
const STRANGER_MS = 10_000;
/** A handshake that others wait for may take this long. It needs one answer of the client. */
const HURRY_MS = 2000;
/** How long a connection that was turned away may take to read why. */
const FAREWELL_MS = 1000;

/** X25519, which every client of ours shares, and P-256. */
const GROUPS: readonly number[] = [0x1d, 0x17];
const KEY_SHARE = 51;

const MORE = 'it sent more than a ClientHello';

/** Tests have smaller ones. */
export interface GateLimits {
  readonly strangersMax: number;
  readonly handshakesMax: number;
  readonly strangerMs: number;
  readonly hurryMs: number;
}

/** Strangers use at most half of the file descriptors that this process may have. */
function usualLimits({ certificate }: TlsListen): GateLimits {
  const descriptors = Number(/^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1]);
  return {
    strangersMax: descriptors > 0 ? Math.min(STRANGERS_MAX, descriptors >> 1) : STRANGERS_MAX,
    handshakesMax: certificate === undefined ? HANDSHAKES_MAX : CERTIFIED_HANDSHAKES_MAX,
    strangerMs: STRANGER_MS,
    hurryMs: HURRY_MS,
  };
}

/** Where connections go that are through. */
export interface GateExits {
  /** Not TLS. @param first all that was read. */
  plain(socket: Socket, first: Buffer): void;
  secure(connection: StreamConnection | NetConnection): void;
}

interface Stranger {
  readonly raw: Socket;
  /** What has the connection: `raw`, or what has taken it over for the handshake. */
  wire: Destroyable;
  readonly peer: string;
  readonly origin: Origin;
  phase: 'hello' | 'waiting' | 'handshake' | 'leaving';
  hello: Buffer;
  /** When the handshake began. */
  beganMs: number;
  timer: NodeJS.Timeout | undefined;
  readonly onData: (chunk: Buffer) => void;
  readonly onClose: () => void;
}

export class TlsGate {
  readonly #tls: TlsListen;
  readonly #exits: GateExits;
  readonly #limits: GateLimits;
  readonly #server: TlsServer;
  /** The oldest first. */
  readonly #strangers = new Set<Stranger>();
  readonly #waiting = new Set<Stranger>();
  readonly #handshakes = new Set<Stranger>();
  #helloBytes = 0;
  #awaitsReady = false;
  #hurry: NodeJS.Timeout | undefined;

  /** @param binding undefined: node:tls is used. @throws FsError EINVAL if the certificate files cannot be used. */
  constructor(
    tls: TlsListen,
    binding: NativeBinding | undefined,
    exits: GateExits,
    limits = usualLimits(tls),
  ) {
    this.#tls = tls;
    this.#exits = exits;
    this.#limits = limits;
    this.#server = new TlsServer(tls, binding);
  }

  /** @param raw is paused, and nothing has been read. */
  take(raw: Socket): void {
    setOptions(raw);
    const stranger: Stranger = {
      raw,
      wire: raw,
      peer: peerOf(raw),
      origin: originOf(raw),
      phase: 'hello',
      hello: Buffer.alloc(0),
      beganMs: 0,
      timer: undefined,
      onData: (chunk) => this.#received(stranger, chunk),
      onClose: () => this.#gone(stranger),
    };
    this.#strangers.add(stranger);
    raw.on('data', stranger.onData);
    raw.on('error', logged);
    raw.on('close', stranger.onClose);
    this.#arm(stranger, this.#limits.strangerMs, () =>
      this.#drop(
        stranger,
        stranger.hello.length > 0 ? 'it did not finish its ClientHello' : 'it sent nothing',
      ),
    );
    raw.resume();
    this.#bound();
  }

  /** Closes all that are not through. */
  close(): void {
    for (const stranger of [...this.#strangers]) this.#drop(stranger);
  }

  #received(stranger: Stranger, chunk: Buffer): void {
    const { raw, phase } = stranger;
    if (phase !== 'hello') {
      this.#drop(stranger, MORE);
      return;
    }
    if (stranger.hello.length === 0 && chunk[0] !== HANDSHAKE_RECORD) {
      this.#forget(stranger);
      this.#exits.plain(raw, this.#allRead(raw, chunk));
      return;
    }
    const hello = stranger.hello.length === 0 ? chunk : Buffer.concat([stranger.hello, chunk]);
    this.#helloBytes += hello.length - stranger.hello.length;
    stranger.hello = hello;
    const state = helloState(hello);
    if (state === 'wrong') {
      this.#drop(stranger, 'it sent no ClientHello');
    } else if (state === 'more') {
      this.#drop(stranger, MORE);
    } else if (state === 'complete' && !sharesKey(hello)) {
      this.#drop(stranger, 'it shares no key of X25519 or P-256');
    } else if (state === 'complete') {
      this.#enter(stranger, 'waiting');
      this.#begin();
    }
    this.#bound();
  }

  /** A stream may have more in its buffer than it has handed out. */
  #allRead(raw: Socket, chunk: Buffer): Buffer {
    raw.pause();
    // A read() of nothing would make the stream wait for bytes that it has told its handle not to read: it is in the middle of a push.
    const more = raw.readableLength > 0 ? (raw.read() as Buffer | null) : null;
    return more === null ? chunk : Buffer.concat([chunk, more]);
  }

  /** Begins the handshakes that may begin. */
  #begin(): void {
    for (const stranger of this.#waiting) {
      if (this.#handshakes.size >= this.#limits.handshakesMax) {
        this.#hurryOldest();
        return;
      }
      if (this.#awaitsReady) return;
      const ready = this.#tls.ready();
      if (ready !== undefined) {
        this.#awaitsReady = true;
        const goOn = (): void => {
          this.#awaitsReady = false;
          this.#begin();
        };
        // In a turn of its own: ready() may have another promise by then.
        ready.then(
          () => setImmediate(goOn),
          () => setImmediate(goOn),
        );
        return;
      }
      this.#handshake(stranger);
    }
  }

  #handshake(stranger: Stranger): void {
    const { raw, hello } = stranger;
    // Its 'close' is on the way.
    if (raw.destroyed) {
      this.#forget(stranger);
      return;
    }
    raw.off('data', stranger.onData);
    stranger.hello = Buffer.alloc(0);
    this.#helloBytes -= hello.length;
    stranger.beganMs = performance.now();
    this.#enter(stranger, 'handshake');
    this.#arm(stranger, this.#limits.strangerMs, () => this.#stalled(stranger));
    stranger.wire = this.#server.handshake(raw, hello, stranger.peer, {
      proved: (secured, proof) => {
        // Dropped meanwhile.
        if (!this.#strangers.has(stranger)) {
          secured.destroy();
          return;
        }
        this.#forget(stranger);
        const { isOwners: _, ...origin } = stranger.origin;
        this.#exits.secure(secured.connection({ ...origin, proof }));
      },
      unproved: (secured, why) => {
        if (!this.#strangers.has(stranger)) {
          secured.destroy();
          return;
        }
        this.#enter(stranger, 'leaving');
        this.#arm(stranger, FAREWELL_MS, () => this.#drop(stranger));
        this.#tls.refused(stranger.peer, why);
        secured.turnAway(turningAway(why), () => this.#forget(stranger));
      },
      failed: (why) => {
        if (this.#strangers.has(stranger)) this.#drop(stranger, why);
      },
    });
  }

  #stalled(stranger: Stranger): void {
    const seconds = ((performance.now() - stranger.beganMs) / 1000).toFixed(1);
    this.#drop(stranger, `it did not go on with the handshake within ${seconds} s`);
  }

  /** Others wait: the oldest handshake gets less time. */
  #hurryOldest(): void {
    if (this.#hurry !== undefined) return;
    const [oldest] = this.#handshakes;
    if (oldest === undefined) return;
    const leftMs = Math.max(0, oldest.beganMs + this.#limits.hurryMs - performance.now());
    this.#hurry = setTimeout(() => {
      this.#hurry = undefined;
      if (this.#waiting.size > 0 && this.#handshakes.has(oldest)) this.#stalled(oldest);
      else this.#begin();
    }, leftMs);
    this.#hurry.unref();
  }

  #enter(stranger: Stranger, phase: Stranger['phase']): void {
    clearTimeout(stranger.timer);
    stranger.phase = phase;
    this.#waiting.delete(stranger);
    const hadSlot = this.#handshakes.delete(stranger);
    if (phase === 'waiting') this.#waiting.add(stranger);
    if (phase === 'handshake') this.#handshakes.add(stranger);
    else if (hadSlot) setImmediate(() => this.#begin());
  }

  #arm(stranger: Stranger, ms: number, late: () => void): void {
    clearTimeout(stranger.timer);
    stranger.timer = setTimeout(late, ms);
    stranger.timer.unref();
  }

  #bound(): void {
    const { strangersMax } = this.#limits;
    while (this.#strangers.size > strangersMax || this.#helloBytes > HELLOS_MAX_BYTES) {
      const [oldest] = this.#strangers;
      if (oldest === undefined) return;
      this.#drop(oldest, 'too many connections wait to prove who they are, and it was the oldest');
    }
  }

  /** It has closed by itself. */
  #gone(stranger: Stranger): void {
    // Another has taken it over.
    if (stranger.wire !== stranger.raw) return;
    if (stranger.phase === 'hello' && stranger.hello.length > 0) {
      this.#tls.refused(stranger.peer, 'it hung up in its ClientHello');
    } else if (stranger.phase === 'handshake') {
      // The server's side of TLS may know why: it hears of the end right behind us.
      this.#arm(stranger, FAREWELL_MS, () => this.#drop(stranger, 'it hung up in the handshake'));
      return;
    }
    this.#forget(stranger);
  }

  #drop(stranger: Stranger, why?: string): void {
    this.#forget(stranger);
    stranger.raw.on('error', logged);
    stranger.raw.destroy();
    stranger.wire.destroy();
    if (why !== undefined) this.#tls.refused(stranger.peer, why);
  }

  /** It is a stranger no more. */
  #forget(stranger: Stranger): void {
    const { raw } = stranger;
    this.#enter(stranger, 'leaving');
    this.#strangers.delete(stranger);
    this.#helloBytes -= stranger.hello.length;
    stranger.hello = Buffer.alloc(0);
    raw.off('data', stranger.onData);
    raw.off('error', logged);
    raw.off('close', stranger.onClose);
  }
}

function logged(error: Error): void {
  log('a connection that is not through: %s', error.message);
}

function helloState(hello: Buffer): 'part' | 'complete' | 'more' | 'wrong' {
  if (hello.length >= 2 && hello[1] !== 3) return 'wrong';
  if (hello.length < RECORD_HEADER_BYTES) return 'part';
  const lengthBytes = RECORD_HEADER_BYTES + hello.readUInt16BE(3);
  if (lengthBytes > HELLO_MAX_BYTES) return 'wrong';
  if (hello.length > RECORD_HEADER_BYTES && hello[RECORD_HEADER_BYTES] !== CLIENT_HELLO) return 'wrong';
  if (hello.length > lengthBytes) return 'more';
  return hello.length === lengthBytes ? 'complete' : 'part';
}

/**
 * @param hello one record, complete; its lengths may lie.
 * @returns false if it has key shares, and none of them is of a group that we take. OpenSSL judges everything else.
 */
function sharesKey(hello: Buffer): boolean {
  // Behind the headers of the record and of the message, the version and 32 random bytes.
  const reader = new HelloReader(hello, RECORD_HEADER_BYTES + 4 + 34);
  reader.skip(1);
  reader.skip(2);
  reader.skip(1);
  reader.number(2);
  while (reader.hasMore) {
    const type = reader.number(2);
    const end = reader.number(2) + reader.at;
    if (type !== KEY_SHARE) {
      reader.at = end;
      continue;
    }
    reader.number(2);
    while (reader.hasMore && reader.at < end) {
      if (GROUPS.includes(reader.number(2))) return true;
      reader.skip(2);
    }
    return false;
  }
  return true;
}

/** Reads numbers, and is at the end when there are no more. */
class HelloReader {
  readonly #bytes: Buffer;
  at: number;

  constructor(bytes: Buffer, at: number) {
    this.#bytes = bytes;
    this.at = at;
  }

  get hasMore(): boolean {
    return this.at < this.#bytes.length;
  }

  number(sizeBytes: number): number {
    const at = this.at;
    this.at += sizeBytes;
    return this.at <= this.#bytes.length ? this.#bytes.readUIntBE(at, sizeBytes) : 0;
  }

  /** A part behind its length. */
  skip(sizeBytes: number): void {
    const lengthBytes = this.number(sizeBytes);
    this.at += lengthBytes;
  }
}
