/**
 * The ports that a node (a server or a client) gets from its surroundings. Everything outside runtime/node_*.ts,
 * storage/meta/lmdb_store.ts, mount/, native/ and cli/ takes time, randomness, sockets and devices from here, so that
 * a simulator can run many nodes in one process and replay a run from its seed.
 */

import type { Timespec } from '../base/attr.js';
import { onAbort } from '../base/wait.js';

export interface Clock {
  /** Monotonic milliseconds with a fraction. For durations and deadlines; unrelated to the time of day. */
  nowMs(): number;
  /** Time of day, for file timestamps. */
  wall(): Timespec;
}

/** Milliseconds since 1970, whole. */
export function wallMs(clock: Clock): number {
  const { sec, nsec } = clock.wall();
  return Math.max(0, sec * 1000 + Math.floor(nsec / 1e6));
}

export interface Timer {
  /** Idempotent. */
  cancel(): void;
}

export interface Timers {
  /** Calls fn once after ms. A timer alone does not keep the process alive if `background` is true. */
  after(ms: number, fn: () => void, background?: boolean): Timer;
  /** Calls fn after the events already under way (setImmediate). */
  soon(fn: () => void): void;
}

/** A clock and timers that follow it, for limits on peers: see server/target/serving_time.ts. */
export type LimitTime = Pick<Clock, 'nowMs'> & Pick<Timers, 'after'>;

export interface Rng {
  /** Uniform in [0, 2^32). */
  u32(): number;
  /** Random version 4 UUID, lower case. */
  uuid(): string;
}

/** Where a server listens. */
export interface Address {
  /** Name or IP address of a host. Or the absolute path of a Unix socket, which begins with "/"; then the port is 0. */
  readonly host: string;
  readonly port: number;
}

/** Receives the events of a connection. All calls come from the event loop, never from inside write() or close(). */
export interface ConnectionEvents {
  /** Receives bytes, in order. The receiver owns the buffer from then on: the transport never writes to it again. */
  data(chunk: Buffer): void;
  /**
   * Memory where the transport may put the next bytes; never empty. The transport asks for it once for each data(), and
   * passes a view of its beginning to data(). This saves a copy of large data. A transport need not ask.
   */
  space?(): Buffer;
  /** Everything written so far has left our memory. Called after write() returned false. */
  drain(): void;
  /** Called exactly once, as the last event. `error` is absent if either side closed in order. */
  closed(error?: Error): void;
}

/** As people read it: HOST:PORT, [IPV6]:PORT, unix:/PATH. */
export function formatAddress({ host, port }: Address): string {
  if (host.startsWith('/')) return `unix:${host}`;
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

/** How a peer has proved who it is. */
export type Proof =
  /** A Unix socket: the kernel names the peer's user. trusted: it is root, or the user of this process. */
  | { readonly kind: 'local'; readonly uid: number; readonly trusted: boolean }
  /** TLS: both sides have the pre-shared key with this identity. */
  | { readonly kind: 'key'; readonly identity: string }
  /** TLS: a CA that the listener trusts has signed the peer's certificate. names: the subject's common name, then the DNS names. */
  | { readonly kind: 'certificate'; readonly names: readonly string[] }
  /** TCP without TLS: nothing is proved. */
  | { readonly kind: 'none' };

/** Where a connection comes from, and whose it is. */
export interface Origin {
  readonly proof: Proof;
  /** IP address of the peer (of one that came as ::ffff:1.2.3.4, 1.2.3.4). Absent: a Unix socket. */
  readonly address?: string | undefined;
  /**
   * Source port; a Unix socket has none: 0. Only root may use one below PRIVILEGED_PORTS_END (ip(7), ip_unprivileged_port_start).
   */
  readonly port: number;
  /** The peer runs on this host. */
  readonly sameHost: boolean;
  /** TCP on this host: whether the kernel says that the peer's socket is root's or this user's. Asking takes some time. */
  isOwners?(): boolean;
}

/** Files in PEM, by their paths. They are read again for new connections when they have changed. */
export interface CertificateFiles {
  readonly certificate: string;
  readonly key: string;
  /** Certificates of the CAs that may sign the peer's certificate. */
  readonly ca: string;
}

/** What a listener needs to take TLS connections. */
export interface TlsListen {
  /** undefined: handshakes may begin. Else they wait for it, and the connections stay unread meanwhile. */
  ready(): Promise<void> | undefined;
  /** The pre-shared key with this identity, 32 bytes. */
  keyOf(identity: string): Uint8Array | undefined;
  /** Absent: the listener takes keys only. */
  readonly certificate?: CertificateFiles | undefined;
  /**
   * A handshake failed. Or certificate files have changed and cannot be used, so those from before stay: then `peer` is
   * the path of the certificate. why: for people, one line, without secrets.
   */
  refused(peer: string, why: string): void;
}

/** What a client proves with who it is, where the kernel does not say it, and what it expects of the server. */
export type Credentials =
  /** key: 32 bytes. The server proves that it has it too. */
  | { readonly kind: 'key'; readonly identity: string; readonly key: Uint8Array }
  /** The server's certificate has to be of the CA, and to have the name or address that we connect to. */
  | { readonly kind: 'certificate'; readonly files: CertificateFiles }
  /** No TLS: the network is trusted. */
  | { readonly kind: 'plain' };

export const PRIVILEGED_PORTS_END = 1024;

export interface Connection {
  /** The peer's address as text, for logs and status: HOST:PORT, or unix:PID or unix:HOST:PORT or unix:PATH for a Unix socket. */
  readonly peer: string;
  readonly origin: Origin;
  /** Bytes given to write() that have not left yet. */
  readonly bufferedBytes: number;
  /** Bytes that the peer's machine has acknowledged; 0 or absent if not known. Reading this costs a system call. */
  readonly takenBytes?: number;
  /**
   * Sends the chunks in order, as one write where possible (writev). They must not change until they are sent.
   * @param sent called when all of them have left our memory; never if the connection breaks before.
   * @returns false if the peer is behind: the caller should pause until drain().
   */
  write(chunks: readonly Uint8Array[], sent?: () => void): boolean;
  /** Stops and restarts reading: backpressure on a peer that sends faster than we work. */
  pause(): void;
  resume(): void;
  /** Sends what is buffered, then closes. */
  end(): void;
  /** Closes at once and drops unsent bytes. closed() follows. */
  destroy(error?: Error): void;
}

export interface Listener {
  readonly address: Address;
  /** Stops accepting at once and frees the port. Open connections stay. */
  close(): Promise<void>;
}

export interface Transport {
  /**
   * Listens for connections through TCP, and through Unix sockets from this host. Plain TCP connections are accepted too: the
   * receiver has to look at their proof.
   * @param accept called for each new connection, when its TLS handshake is done; returns the receiver of its events.
   * @param tls absent: the listener takes no TLS.
   * @throws FsError EBUSY if the port or path is in use, EINVAL if this machine cannot listen at the address.
   */
  listen(
    address: Address,
    accept: (connection: Connection) => ConnectionEvents,
    tls?: TlsListen,
  ): Promise<Listener>;
  /**
   * Connects through a Unix socket if a server of this host listens there that may be trusted, else through TCP, from a
   * privileged source port if this process may use one.
   * @throws FsError ECONNREFUSED, ETIMEDOUT, ENXIO (no such host), EAGAIN (no name server answers); ECANCELED when the signal aborts;
   *   EACCES if the server did not take the credentials, or credentials are missing; EPROTO if it does not speak TLS.
   */
  connect(
    address: Address,
    open: (connection: Connection) => ConnectionEvents,
    options: ConnectOptions,
  ): Promise<Connection>;
}

export interface ConnectOptions {
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
  /** For TCP. Absent: only Unix sockets are used. */
  readonly credentials?: Credentials | undefined;
}

/** A block device opened exclusively. Offsets and lengths are in bytes and need no alignment, unless a method says so. */
export interface BlockDevice {
  readonly path: string;
  readonly sizeBytes: number;
  /** Fills target from offset. @throws FsError EIO; a short read is EIO. */
  read(offset: number, target: Uint8Array): Promise<void>;
  /**
   * As read(), for content that nobody is likely to read again soon: the page cache need not keep it. Makes no copy if
   * target comes from memory().
   */
  readOnce(offset: number, target: Uint8Array): Promise<void>;
  /** Memory for readOnce(), to be used again and again. */
  memory(lengthBytes: number): Buffer;
  /** Writes all chunks back to back from offset (pwritev). Not durable before flush(). @throws FsError EIO. */
  write(offset: number, chunks: readonly Uint8Array[]): Promise<void>;
  /** Everything written before the call is durable after it (fdatasync). @throws FsError EIO. */
  flush(): Promise<void>;
  /**
   * Fills target past every cache of this host, to see what other hosts have written. Offset and length are multiples
   * of 4096.
   * @throws FsError EIO, EINVAL.
   */
  readDirect(offset: number, target: Uint8Array): Promise<void>;
  /**
   * Writes past every cache of this host: others see it once it is done. Not durable before flush(). Offset and length
   * are multiples of 4096. Does not wait behind other calls of this device. @throws FsError EIO, EINVAL.
   */
  writeDirect(offset: number, bytes: Uint8Array): Promise<void>;
  /** A hint that the range holds no data. No error if the device cannot discard. */
  discard(offset: number, lengthBytes: number): Promise<void>;
  close(): Promise<void>;
}

/** Names and values that tell the members of one family apart: an operation, an error code. Few values each. */
export type Labels = Readonly<Record<string, string>>;

export interface Counter {
  inc(by?: number): void;
}

export interface Histogram {
  /** @param times how many events took this long. Default 1. */
  observe(seconds: number, times?: number): void;
}

/**
 * What a process counts of itself. Names follow Prometheus: holdfast_NAME, base units, _total for counts. Whoever counts often keeps
 * the counter or histogram: the look-up by name costs more than counting does.
 */
export interface Metrics {
  /** Counts events. */
  counter(name: string, help: string, labels?: Labels): Counter;
  /** A count that somebody keeps in any case; it never falls. The counts of all readers of one name and labels are added. */
  total(name: string, help: string, read: () => number, labels?: Labels): void;
  /** The values of all readers of one name and labels are added. */
  gauge(name: string, help: string, read: () => number, labels?: Labels): void;
  /** A distribution of durations in seconds. */
  histogram(name: string, help: string, labels?: Labels): Histogram;
  /** Calls update() before somebody reads: for counts that are added up there only now and then. */
  beforeReading(update: () => void): void;
}

/** For a process whose metrics nobody can read: it counts nothing. */
export const NO_METRICS: Metrics = {
  counter: () => ({ inc: () => undefined }),
  total: () => undefined,
  gauge: () => undefined,
  histogram: () => ({ observe: () => undefined }),
  beforeReading: () => undefined,
};

/** What operations wait for; only the log of slow operations wants to know (node_slow_log.ts). */
export interface Waits {
  /** Else the two methods do nothing: a hot path does not call them then. */
  readonly isOn: boolean;
  /**
   * Follows an operation from here until its result, or what its promise resolves to, is there.
   * @param name for people; called only if the operation was slow.
   */
  track<T>(name: () => string, run: () => T): T;
  /** The operation that runs now, if it is followed, waits for this promise. @param what for people; a few kinds. */
  during<T>(what: () => string, promise: Promise<T>): Promise<T>;
}

export const NO_WAITS: Waits = {
  isOn: false,
  track: (_, run) => run(),
  during: (_, promise) => promise,
};

export interface Checksum {
  /** CRC-32C (Castagnoli) of each block of data in turn; the last may be short. */
  crc32cBlocks(data: Uint8Array, blockBytes: number): Uint32Array;
}

export interface Mac {
  /** HMAC-SHA-256 of the data: 32 bytes. */
  hmacSha256(key: Uint8Array, data: Uint8Array): Uint8Array;
}

/** A place in the product where a test may cause a failure that could also happen by itself. */
export type FaultPoint =
  /** The server goes on answering, but commits nothing from now on. */
  | 'commit.hold'
  /** The server grants no lock with an answer. */
  | 'grant.refuse'
  /** The server grants no space. */
  | 'space.refuse'
  /** The server gives a client only few FIDs at once. */
  | 'fids.few';

export interface Faults {
  /** Whether this point fails this time. Never in production. */
  strikes(point: FaultPoint): boolean;
}

export const NO_FAULTS: Faults = { strikes: () => false };

export interface Runtime {
  readonly faults: Faults;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly rng: Rng;
  readonly transport: Transport;
  readonly metrics: Metrics;
  readonly waits: Waits;
  readonly checksum: Checksum;
  readonly mac: Mac;
}

/** Resolves after ms; rejects with the signal's reason if the signal aborts first. */
export function sleep(timers: Timers, ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(signal.reason);
      return;
    }
    const timer = timers.after(ms, () => {
      unlisten();
      resolve();
    });
    const unlisten = onAbort(signal, () => {
      timer.cancel();
      reject(signal?.reason);
    });
  });
}
