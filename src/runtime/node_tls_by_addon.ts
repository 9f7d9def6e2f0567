/**
 * The server's side of TLS handshakes by the addon (native/tls_handshake.cc). It takes the connection over from its net.Socket with the
 * ClientHello, so a handshake costs the memory of OpenSSL only, and later the records are those of the addon.
 */

import type { Socket } from 'node:net';
import type { NativeBinding } from '../../native/binding.js';
import { logger } from '../base/log.js';
import type { Destroyable } from './node_dial.js';
import { originOf } from './node_peer.js';
import { adoptSocket, type StreamConnection } from './node_stream.js';
import { readFiles, usable } from './node_tls_files.js';
import { type HandshakeAnswers, type Handshaker, type Secured, shownBy } from './node_tls_handshake.js';
import { broken } from './node_tls_texts.js';
import type { CertificateFiles } from './ports.js';

const log = logger('runtime:tls');

/** @returns undefined if the addon has no TLS. @throws FsError EINVAL if the certificate files cannot be used. */
export function addonHandshaker(
  binding: NativeBinding | undefined,
  files: CertificateFiles | undefined,
): Handshaker | undefined {
  const Context = binding?.TlsContext;
  if (binding === undefined || Context === undefined) return undefined;
  const context =
    files === undefined
      ? new Context(true)
      : usable(files, 'EINVAL', () => {
          const { cert, key, ca } = readFiles(files);
          return new Context(true, cert, key, ca);
        });
  return {
    handshake: (raw: Socket, hello: Buffer, peer: string, answers: HandshakeAnswers): Destroyable => {
      const connection = adoptSocket(binding, raw, peer, originOf(raw), hello, {
        context,
        keyOf: (identity) => answers.keyOf(identity),
        secured: (outcome) => {
          if (connection !== undefined) answers.done(securedBy(connection), shownBy(outcome));
        },
        failed: (error) => answers.failed(error),
      });
      if (connection !== undefined) return connection;
      // It has sent more, or there is no descriptor for it.
      raw.destroy();
      setImmediate(() => answers.failed(new Error('it cannot be taken over')));
      return raw;
    },
  };
}

function securedBy(connection: StreamConnection): Secured {
  return {
    connection: (origin) => {
      connection.prove(origin, { explain: broken });
      return connection;
    },
    turnAway: (line, closed) => {
      connection.start({
        data: () => undefined,
        drain: () => undefined,
        closed: (error) => {
          if (error !== undefined) log('%s, turned away: %s', connection.peer, error.message);
          closed();
        },
      });
      connection.write([line]);
      connection.end();
    },
    destroy: () => connection.destroy(),
  };
}
