/**
 * The client's side of TLS: what it proves, what it expects of the server, and what a failure means.
 *
 * - With a key the server has to use that key. A server that shows a certificate instead does not know the key, whoever has
 *   signed the certificate.
 * - With a certificate the server's has to be of our CA, and to have the name or address that we connect to. This is checked here
 *   and not by Node, which would drop the certificate with its dates (rejectUnauthorized). Nothing is sent before.
 * - In TLS 1.3 our side of the handshake is done before the server has looked at our certificate. So a refusal comes when the
 *   connection is open: as an alert, or as the line of turningAway().
 * - A client keeps no session, so each connection is authenticated anew.
 */

import { type ConnectionOptions, checkServerIdentity, connect, type TLSSocket } from 'node:tls';
import { FsError } from '../base/errno.js';
import type { Way } from './node_dial.js';
import { NetConnection } from './node_net_connection.js';
import { setOptions, show } from './node_peer.js';
import { readFiles, usable } from './node_tls_files.js';
import { broken, CIPHER, certificateTrouble, quoted, reasonOf, turnedAway } from './node_tls_texts.js';
import type { Address, CertificateFiles, Credentials } from './ports.js';

type Key = Extract<Credentials, { kind: 'key' }>;
type Secret = Exclude<Credentials, { kind: 'plain' }>;

const OPTIONS: ConnectionOptions = {
  minVersion: 'TLSv1.3',
  maxVersion: 'TLSv1.3',
  ciphers: CIPHER,
  rejectUnauthorized: false,
};

/** Alerts of RFC 8446. */
const ALERT = {
  handshakeFailure: 40,
  /** bad_certificate to certificate_unknown. */
  certificateFirst: 42,
  certificateLast: 46,
  illegalParameter: 47,
  unknownCa: 48,
  accessDenied: 49,
  decryptError: 51,
  protocolVersion: 70,
  unknownPskIdentity: 115,
  certificateRequired: 116,
};

/** How to connect through TLS. @throws FsError EACCES if the certificate files cannot be used. */
export function tlsWay(address: Address, credentials: Secret): Way {
  return credentials.kind === 'key'
    ? keyWay(address, credentials)
    : certificateWay(address, credentials.files);
}

function keyWay(address: Address, { identity, key }: Key): Way {
  const at = show(address);
  const unknown = (): FsError =>
    new FsError(
      'EACCES',
      `${at} does not know the key ${quoted(identity)}: make it there with \`holdfast access add\``,
    );
  const explain = (error: Error): FsError | undefined => {
    switch (alertOf(error)) {
      case ALERT.handshakeFailure:
      case ALERT.unknownPskIdentity:
      case ALERT.accessDenied:
        return unknown();
      case ALERT.illegalParameter:
      case ALERT.decryptError:
        return new FsError(
          'EACCES',
          `${at} has another key with the name ${quoted(identity)}: copy the key from there again`,
          { cause: error },
        );
      default:
        return explainOther(error, at);
    }
  };
  return {
    intoSpace: true,
    readyEvent: 'secureConnect',
    make: (to) =>
      connect({
        ...OPTIONS,
        ...to,
        // No certificate proves anything here. Without this, Node would load those of all public CAs.
        ca: [],
        // The key keeps a quantum computer out. A share that does so too would only make the ClientHello five times as long.
        ecdhCurve: 'X25519:P-256',
        checkServerIdentity: () => undefined,
        pskCallback: () => ({ identity, psk: key }),
      }),
    take: (socket) => {
      // OpenSSL calls a handshake by key a resumed session too. We offer no other.
      if (!(socket as TLSSocket).isSessionReused()) throw unknown();
      setOptions(socket);
      return new NetConnection(socket, { intoSpace: true, explain: (error) => explainOpen(error, explain) });
    },
    explain,
  };
}

function certificateWay(address: Address, files: CertificateFiles): Way {
  const at = show(address);
  const texts = usable(files, 'EACCES', () => readFiles(files));
  const refused = (why: string, cause?: Error): FsError =>
    new FsError('EACCES', `${at} refused our certificate ${files.certificate}: ${why}`, { cause });
  const explain = (error: Error): FsError | undefined => {
    const alert = alertOf(error);
    if (alert === ALERT.handshakeFailure) {
      return new FsError('EACCES', `${at} takes no certificates, only keys`, { cause: error });
    }
    const isAboutCertificate =
      (alert >= ALERT.certificateFirst && alert <= ALERT.certificateLast) ||
      [ALERT.unknownCa, ALERT.accessDenied, ALERT.decryptError, ALERT.certificateRequired].includes(alert);
    return isAboutCertificate ? refused(reasonOf(error), error) : explainOther(error, at);
  };
  return {
    intoSpace: true,
    readyEvent: 'secureConnect',
    make: (to) =>
      usable(files, 'EACCES', () =>
        connect({
          ...OPTIONS,
          ...to,
          ...texts,
          checkServerIdentity: (_name, certificate) => checkServerIdentity(address.host, certificate),
        }),
      ),
    take: (socket) => {
      const secure = socket as TLSSocket;
      if (!secure.authorized || secure.isSessionReused()) {
        const code = String(secure.authorizationError ?? 'no certificate');
        const why = certificateTrouble(code, secure.getPeerCertificate(), files.ca, Date.now(), address.host);
        throw new FsError('EACCES', `not connected to ${at}: its ${why.replace(/^the /, '')}`);
      }
      setOptions(socket);
      return new NetConnection(socket, {
        intoSpace: true,
        checkFirst: (chunk) => {
          const why = turnedAway(chunk);
          return why === undefined ? undefined : refused(why);
        },
        explain: (error) => explainOpen(error, explain),
      });
    },
    explain,
  };
}

/** @returns 0 if it is none. */
function alertOf(error: Error): number {
  return Number(/SSL alert number (\d+)/.exec(error.message)?.[1] ?? 0);
}

/** What breaks a connection that is open. Only an alert is an answer to what we have proved. */
function explainOpen(error: Error, explain: (error: Error) => FsError | undefined): Error {
  return (alertOf(error) > 0 ? explain(error) : undefined) ?? broken(error);
}

function explainOther(error: Error, at: string): FsError | undefined {
  const { code = '' } = error as NodeJS.ErrnoException;
  const cause = { cause: error };
  if (alertOf(error) === ALERT.protocolVersion) {
    return new FsError('EPROTO', `${at} speaks no TLS 1.3`, cause);
  }
  if (['ECONNRESET', 'EPIPE', 'ERR_SSL_WRONG_VERSION_NUMBER'].includes(code)) {
    const advice = 'is it a server of an older release, or one with --tls=off? then mount with -o tls=off';
    return new FsError('EPROTO', `${at} does not speak TLS: ${advice}`, cause);
  }
  if (!code.startsWith('ERR_SSL')) return undefined;
  return new FsError('EPROTO', `TLS with ${at} failed: ${reasonOf(error)}`, cause);
}
