/**
 * Counts the bytes of requests that a server has decoded and not answered, for each connection, for each host and in
 * all.
 *
 * Such a request may wait for a lock, so the server must go on reading its connection: the CANCEL or the WRITE that
 * ends the wait may come through it. So nothing is paused here. Our client comes near none of these limits. The server
 * closes a connection that exceeds one: that ends its waits, and a client that still lives connects again and asks
 * again.
 */

import { FsError } from '../base/errno.js';
import { logger } from '../base/log.js';
import type { Link } from './api.js';

const log = logger('rpc:waiting');

/** Memory that a request costs beside its body. */
const REQUEST_BYTES = 512;

export interface WaitingLimits {
  readonly linkBytes: number;
  readonly hostBytes: number;
  readonly allBytes: number;
}

/** Room for a thousand extended attributes of the largest size from one mount. */
const WAITING_LIMITS: WaitingLimits = {
  linkBytes: 64 << 20,
  hostBytes: 256 << 20,
  allBytes: 512 << 20,
};

type Peer = Pick<Link, 'peer' | 'isClosed' | 'destroy'>;

export class WaitingRequests {
  readonly #limits: WaitingLimits;
  readonly #links = new Map<Peer, number>();
  readonly #hosts = new Map<string, number>();
  #bytes = 0;

  constructor(limits = WAITING_LIMITS) {
    this.#limits = limits;
  }

  get usedBytes(): number {
    return this.#bytes;
  }

  /**
   * A request begins to wait. May close this connection, or the one with the most bytes. @returns the bytes to pass to
   * give().
   */
  take(link: Peer, bodyBytes: number): number {
    const bytes = bodyBytes + REQUEST_BYTES;
    const host = hostOf(link.peer);
    const ofLink = (this.#links.get(link) ?? 0) + bytes;
    const ofHost = (this.#hosts.get(host) ?? 0) + bytes;
    this.#links.set(link, ofLink);
    this.#hosts.set(host, ofHost);
    this.#bytes += bytes;
    const { linkBytes, hostBytes, allBytes } = this.#limits;
    if (ofLink > linkBytes) close(link, 'this connection has', linkBytes);
    else if (ofHost > hostBytes) close(link, 'this host has', hostBytes);
    else if (this.#bytes > allBytes) {
      const largest = this.#largest();
      if (largest !== undefined) close(largest, 'all have', allBytes);
      // The waits of closed connections end some time after the connections do.
      if (this.#bytes > allBytes * 1.25) close(link, 'all have', allBytes);
    }
    return bytes;
  }

  /** @param bytes what take() returned. */
  give(link: Peer, bytes: number): void {
    const host = hostOf(link.peer);
    lower(this.#links, link, bytes);
    lower(this.#hosts, host, bytes);
    this.#bytes -= bytes;
  }

  #largest(): Peer | undefined {
    let largest: Peer | undefined;
    let most = 0;
    for (const [link, bytes] of this.#links) {
      if (bytes <= most || link.isClosed) continue;
      largest = link;
      most = bytes;
    }
    return largest;
  }
}

function lower<K>(counts: Map<K, number>, key: K, bytes: number): void {
  const left = (counts.get(key) ?? 0) - bytes;
  if (left > 0) counts.set(key, left);
  else counts.delete(key);
}

function close(link: Peer, whose: string, limitBytes: number): void {
  if (link.isClosed) return;
  log('%s: %s more than %d bytes of waiting requests; closing this connection', link.peer, whose, limitBytes);
  link.destroy(new FsError('EPROTO', `${whose} more than ${limitBytes} bytes of requests that wait`));
}

/** @param peer host and port. */
export function hostOf(peer: string): string {
  const colon = peer.lastIndexOf(':');
  return colon < 0 ? peer : peer.slice(0, colon);
}
