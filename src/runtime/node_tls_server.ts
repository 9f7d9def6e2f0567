/**
 * The server's side of TLS handshakes: version, cipher, keys, certificates. Says for each handshake whose it was.
 *
 * - TLS 1.3 and one cipher only. With a cipher of another hash OpenSSL would drop a key that was found, and go on without it.
 * - A key is used with Diffie-Hellman (psk_dhe_ke), so recorded traffic stays secret if the key leaks later. OpenSSL takes no
 *   key without it unless it is told to.
 * - Nobody resumes a session. OpenSSL is told to make no tickets, so it looks for sessions in Node's store, and there is none.
 *   Whose key is gone is out with the next connection.
 * - A key counts if this very handshake asked for it (the last answer to pskCallback) and used it (isSessionReused: so OpenSSL
 *   calls a handshake by key too). A certificate counts if the handshake used no key and OpenSSL has verified it.
 * - Certificates that do not count are refused here and not by Node, which would drop the reason (rejectUnauthorized).
 * - Certificate files are read again when they have changed, at most once a second. If they cannot be used then, those from
 *   before stay, and one line says so.
 */

import { constants } from 'node:crypto';
import type { Socket } from 'node:net';
import { createServer, type Server, type TLSSocket, type TlsOptions } from 'node:tls';
import { logger } from '../base/log.js';
import { streamBinding } from './node_stream.js';
import { readFiles, stampOf, usable } from './node_tls_files.js';
import { CIPHER, certificateTrouble, namesOf, quoted, reasonOf } from './node_tls_texts.js';
import type { Proof, TlsListen } from './ports.js';

const log = logger('runtime:tls');

/**
 * A leaf and two CAs between take 5 KiB. OpenSSL would take 100 KiB of a peer that has proved nothing, and make four times that of
 * it.
 */
const CERTIFICATES_MAX_BYTES = 8 << 10;
/** How often the certificate files are looked at. */
const FILES_LOOK_MS = 1000;

export interface HandshakeEvents {
  /** The handshake is done, and the peer is who it says. */
  proved(raw: Socket, socket: TLSSocket, proof: Proof): void;
  /** The handshake is done, but the peer has not proved anything. */
  unproved(raw: Socket, socket: TLSSocket, why: string): void;
  /** The handshake has failed, and the socket closes. */
  failed(raw: Socket, why: string): void;
}

/** What the callback for keys was asked last in a handshake. */
interface Asked {
  readonly identity: string;
  readonly known: boolean;
}

export class TlsServer {
  readonly #tls: TlsListen;
  readonly #events: HandshakeEvents;
  readonly #asked = new WeakMap<TLSSocket, Asked>();
  #server: Server;
  /** Of the certificate files that were tried last. */
  #stamp: string;
  #lookedMs = performance.now();

  /** @throws FsError EINVAL if the certificate files cannot be used. */
  constructor(tls: TlsListen, events: HandshakeEvents) {
    this.#tls = tls;
    this.#events = events;
    this.#stamp = stampOf(tls.certificate);
    this.#server = this.#make();
  }

  /** Begins the handshake. @param raw nothing is read from it but what is in its buffer. */
  handshake(raw: Socket): void {
    this.#renew();
    this.#server.emit('connection', raw);
  }

  #make(): Server {
    const files = this.#tls.certificate;
    // Node has no option for it.
    if (files !== undefined && streamBinding()?.limitCertificates(CERTIFICATES_MAX_BYTES) !== true)
      log('certificates of peers may have 100 KiB here');
    const options: TlsOptions = {
      minVersion: 'TLSv1.3',
      maxVersion: 'TLSv1.3',
      ciphers: CIPHER,
      secureOptions: constants.SSL_OP_NO_TICKET,
      pskCallback: (socket, identity) => this.#keyFor(socket, identity),
      rejectUnauthorized: false,
    };
    const server =
      files === undefined
        ? createServer(options)
        : usable(files, 'EINVAL', () => createServer({ ...options, ...readFiles(files), requestCert: true }));
    server.on('secureConnection', (socket) => this.#done(socket));
    server.on('tlsClientError', (error, socket) => {
      const raw = rawOf(socket);
      if (raw !== undefined) this.#events.failed(raw, this.#why(error, socket));
    });
    return server;
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
      this.#server = this.#make();
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      this.#tls.refused(files.certificate, `${why}; the certificate from before stays in use`);
    }
  }

  #keyFor(socket: TLSSocket, identity: string): Buffer | null {
    const key = this.#tls.keyOf(identity);
    this.#asked.set(socket, { identity, known: key !== undefined });
    return key === undefined ? null : Buffer.from(key);
  }

  #done(socket: TLSSocket): void {
    const raw = rawOf(socket);
    if (raw === undefined) {
      socket.destroy();
      return;
    }
    const asked = this.#asked.get(socket);
    const certificate = socket.getPeerCertificate();
    if (socket.isSessionReused()) {
      if (asked?.known === true) this.#events.proved(raw, socket, { kind: 'key', identity: asked.identity });
      else this.#events.unproved(raw, socket, 'it resumes a session');
    } else if (socket.authorized && certificate.subject !== undefined) {
      this.#events.proved(raw, socket, { kind: 'certificate', names: namesOf(certificate) });
    } else {
      const ca = this.#tls.certificate?.ca ?? '';
      const code = String(socket.authorizationError);
      const why =
        certificate.subject === undefined
          ? nothing(asked)
          : certificateTrouble(code, certificate, ca, Date.now());
      this.#events.unproved(raw, socket, why);
    }
  }

  #why(error: Error & { readonly code?: string }, socket: TLSSocket): string {
    const asked = this.#asked.get(socket);
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
}

function nothing(asked: Asked | undefined): string {
  if (asked === undefined) return 'it has no key and no certificate';
  return `unknown key ${quoted(asked.identity)}`;
}

/** Node has no public name for the socket below a TLS socket. */
function rawOf(socket: TLSSocket): Socket | undefined {
  return (socket as unknown as { readonly _parent?: Socket })._parent;
}
