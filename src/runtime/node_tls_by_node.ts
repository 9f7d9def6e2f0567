/** The server's side of TLS handshakes by node:tls, which has no function for some of what we need. For want of the addon's. */

import { constants } from 'node:crypto';
import type { Socket } from 'node:net';
import { createServer, type Server, type TLSSocket, type TlsOptions } from 'node:tls';
import { logger } from '../base/log.js';
import { NetConnection } from './node_net_connection.js';
import { streamBinding } from './node_stream.js';
import { readFiles, usable } from './node_tls_files.js';
import type { HandshakeAnswers, Handshaker, Secured } from './node_tls_handshake.js';
import { broken, CIPHER } from './node_tls_texts.js';
import type { CertificateFiles } from './ports.js';

const log = logger('runtime:tls');

/**
 * A leaf and two CAs between take 5 KiB. OpenSSL would take 100 KiB of a peer that has proved nothing, and make four times that of
 * it.
 */
const CERTIFICATES_MAX_BYTES = 8 << 10;

/** @throws FsError EINVAL if the certificate files cannot be used. */
export function nodeHandshaker(files: CertificateFiles | undefined): Handshaker {
  const answersOf = new WeakMap<Socket, { readonly peer: string; readonly answers: HandshakeAnswers }>();
  const of = (socket: TLSSocket) => {
    const raw = rawOf(socket);
    return raw === undefined ? undefined : answersOf.get(raw);
  };
  // Node has no option for it.
  if (files !== undefined && streamBinding()?.limitCertificates(CERTIFICATES_MAX_BYTES) !== true)
    log('certificates of peers may have 100 KiB here');
  const options: TlsOptions = {
    minVersion: 'TLSv1.3',
    maxVersion: 'TLSv1.3',
    ciphers: CIPHER,
    // OpenSSL looks for sessions in Node's store then, and there is none.
    secureOptions: constants.SSL_OP_NO_TICKET,
    pskCallback: (socket, identity) => {
      const key = of(socket)?.answers.keyOf(identity);
      return key === undefined ? null : Buffer.from(key);
    },
    rejectUnauthorized: false,
  };
  const server: Server =
    files === undefined
      ? createServer(options)
      : usable(files, 'EINVAL', () => createServer({ ...options, ...readFiles(files), requestCert: true }));
  server.on('secureConnection', (socket) => {
    const known = of(socket);
    const certificate = socket.getPeerCertificate();
    known?.answers.done(securedBy(socket, known.peer), {
      usedKey: socket.isSessionReused(),
      certificate: certificate.subject === undefined ? undefined : certificate,
      trouble: socket.authorized ? undefined : String(socket.authorizationError),
    });
    if (known === undefined) socket.destroy();
  });
  server.on('tlsClientError', (error, socket) => of(socket)?.answers.failed(error));
  return {
    handshake: (raw, hello, peer, answers) => {
      answersOf.set(raw, { peer, answers });
      raw.pause();
      raw.unshift(hello);
      server.emit('connection', raw);
      return raw;
    },
  };
}

function securedBy(socket: TLSSocket, peer: string): Secured {
  return {
    connection: (origin) => new NetConnection(socket, { from: { peer, origin }, explain: broken }),
    turnAway: (line) => {
      socket.on('error', (error) => log('%s, turned away: %s', peer, error.message));
      socket.resume();
      socket.end(line);
    },
    destroy: () => void socket.destroy(),
  };
}

/** Node has no public name for the socket below a TLS socket. */
function rawOf(socket: TLSSocket): Socket | undefined {
  return (socket as unknown as { readonly _parent?: Socket })._parent;
}
