/**
 * The server's side of TLS handshakes: keys and certificates. Says for each handshake whose it was. The addon does the handshake
 * (node_tls_by_addon.ts), or node:tls if there is no addon (node_tls_by_node.ts).
 *
 * - TLS 1.3 and one cipher only. With a cipher of another hash OpenSSL would drop a key that was found, and go on without it.
 * - A key is used with Diffie-Hellman (psk_dhe_ke), so recorded traffic stays secret if the key leaks later. OpenSSL takes no
 *   key without it unless it is told to.
 * - Nobody resumes a session. OpenSSL is told to make no tickets, and it keeps no sessions. Whose key is gone is out with the next
 *   connection.
 * - A key counts if this very handshake asked for it (the last answer to keyOf) and used it: OpenSSL calls that a resumed session. A
 *   certificate counts if the handshake used no key and OpenSSL has verified it.
 * - Certificates that do not count are refused here and not by OpenSSL, which could not say why.
 * - Certificate files are read again when they have changed, at most once a second. If they cannot be used then, those from
 *   before stay, and one line says so.
 */

import type { Socket } from 'node:net';
import type { NativeBinding } from '../../native/binding.js';
import type { Destroyable } from './node_dial.js';
import { addonHandshaker } from './node_tls_by_addon.js';
import { nodeHandshaker } from './node_tls_by_node.js';
import { stampOf } from './node_tls_files.js';
import type { Handshaker, Secured, Shown } from './node_tls_handshake.js';
import { CIPHER, certificateTrouble, namesOf, quoted, reasonOf } from './node_tls_texts.js';
import type { Proof, TlsListen } from './ports.js';

/** How often the certificate files are looked at. */
const FILES_LOOK_MS = 1000;

/** One of them is called, once; none after the handshake was destroyed. */
export interface HandshakeEvents {
  /** The peer is who it says. */
  proved(secured: Secured, proof: Proof): void;
  /** The handshake is done, but the peer has not proved anything. */
  unproved(secured: Secured, why: string): void;
  /** The handshake has failed, and the connection closes. */
  failed(why: string): void;
}

/** What the handshake asked for last. */
interface Asked {
  readonly identity: string;
  readonly known: boolean;
}

export class TlsServer {
  readonly #tls: TlsListen;
  readonly #binding: NativeBinding | undefined;
  #handshaker: Handshaker;
  /** Of the certificate files that were tried last. */
  #stamp: string;
  #lookedMs = performance.now();

  /** @param binding undefined: node:tls is used. @throws FsError EINVAL if the certificate files cannot be used. */
  constructor(tls: TlsListen, binding: NativeBinding | undefined) {
    this.#tls = tls;
    this.#binding = binding;
    this.#stamp = stampOf(tls.certificate);
    this.#handshaker = this.#make();
  }

  /** Begins a handshake. As Handshaker.handshake(). */
  handshake(raw: Socket, hello: Buffer, peer: string, events: HandshakeEvents): Destroyable {
    this.#renew();
    let asked: Asked | undefined;
    return this.#handshaker.handshake(raw, hello, peer, {
      keyOf: (identity) => {
        const key = this.#tls.keyOf(identity);
        asked = { identity, known: key !== undefined };
        return key;
      },
      done: (secured, shown) => this.#done(secured, shown, asked, events),
      failed: (error) => events.failed(whyFailed(error, asked)),
    });
  }

  #make(): Handshaker {
    const { certificate } = this.#tls;
    return addonHandshaker(this.#binding, certificate) ?? nodeHandshaker(certificate);
  }

  #renew(): void {
    const files = this.#tls.certificate;
    const nowMs = performance.now();
    if (files === undefined || nowMs - this.#lookedMs < FILES_LOOK_MS) return;
    this.#lookedMs = nowMs;
    const stamp = stampOf(files);
    if (stamp === this.#stamp) return;
    this.#stamp = stamp;
    try {
      this.#handshaker = this.#make();
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      this.#tls.refused(files.certificate, `${why}; the certificate from before stays in use`);
    }
  }

  #done(secured: Secured, shown: Shown, asked: Asked | undefined, events: HandshakeEvents): void {
    const { usedKey, certificate, trouble } = shown;
    if (usedKey) {
      if (asked?.known === true) events.proved(secured, { kind: 'key', identity: asked.identity });
      else events.unproved(secured, 'it resumes a session');
    } else if (certificate === undefined) {
      events.unproved(secured, nothing(asked));
    } else if (trouble === undefined) {
      events.proved(secured, { kind: 'certificate', names: namesOf(certificate) });
    } else {
      const ca = this.#tls.certificate?.ca ?? '';
      events.unproved(secured, certificateTrouble(trouble, certificate, ca, Date.now()));
    }
  }
}

function whyFailed(error: Error & { readonly code?: string }, asked: Asked | undefined): string {
  switch (error.code) {
    case 'ERR_SSL_BINDER_DOES_NOT_VERIFY':
      return `wrong key for ${quoted(asked?.identity ?? '')}`;
    case 'ERR_SSL_NO_SUITABLE_SIGNATURE_ALGORITHM':
    case 'ERR_SSL_NO_SUITABLE_KEY_SHARE':
      return nothing(asked);
    case 'ERR_SSL_UNSUPPORTED_PROTOCOL':
      return 'it speaks no TLS 1.3';
    case 'ERR_SSL_NO_SHARED_CIPHER':
      return `it does not know the cipher ${CIPHER}`;
    case 'ECONNRESET':
    case 'EPIPE':
      return asked?.known === false ? nothing(asked) : 'it hung up in the handshake';
    default:
      return `the TLS handshake failed: ${reasonOf(error)}`;
  }
}

function nothing(asked: Asked | undefined): string {
  if (asked === undefined) return 'it has no key and no certificate';
  return `unknown key ${quoted(asked.identity)}`;
}
