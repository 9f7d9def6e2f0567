/**
 * The client's side of TLS: what it proves, what it expects of the server, and what a failure means. The addon carries it, or
 * node:tls if there is no addon.
 *
 * - With a key the server has to use that key. A server that shows a certificate instead does not know the key, whoever has
 *   signed the certificate.
 * - With a certificate the server's has to be of our CA, and to have the name or address that we connect to. This is checked here
 *   and not by Node, which would drop the certificate with its dates (rejectUnauthorized). Nothing is sent before.
 * - In TLS 1.3 our side of the handshake is done before the server has looked at our certificate. So a refusal comes when the
 *   connection is open: as an alert, or as the line of turningAway().
 * - A client keeps no session, so each connection is authenticated anew.
 */

import { createConnection } from 'node:net';
import {
  type ConnectionOptions,
  checkServerIdentity,
  connect,
  type PeerCertificate,
  type TLSSocket,
} from 'node:tls';
import type { NativeBinding, TlsContext } from '../../native/binding.js';
import { FsError } from '../base/errno.js';
import type { Way } from './node_dial.js';
import { NetConnection } from './node_net_connection.js';
import { originOf, peerOf, setOptions, show } from './node_peer.js';
import { adoptSocket, type StreamWatch } from './node_stream.js';
import { readFiles, usable } from './node_tls_files.js';
import { NO_CERTIFICATE, type Shown, shownBy } from './node_tls_handshake.js';
import {
  alertOf,
  broken,
  CIPHER,
  certificateTrouble,
  quoted,
  reasonOf,
  turnedAway,
} from './node_tls_texts.js';
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

/** What a way expects of a server, and says of failures. */
interface Expectation extends StreamWatch {
  /** @throws FsError if the server is not who we want. */
  readonly check: (shown: Shown) => void;
  readonly explain: (error: Error) => Error;
  /** Of the handshake. */
  readonly explainHandshake: (error: Error) => FsError | undefined;
}

/** @param binding undefined: node:tls is used. @throws FsError EACCES if the certificate files cannot be used. */
export function tlsWay(address: Address, credentials: Secret, binding: NativeBinding | undefined): Way {
  return credentials.kind === 'key'
    ? keyWay(address, credentials, binding)
    : certificateWay(address, credentials.files, binding);
}

function addonWay(binding: NativeBinding, context: TlsContext, expected: Expectation): Way {
  return {
    intoSpace: false,
    readyEvent: 'connect',
    make: (to) => createConnection(to),
    take: (socket, opened, failed) => {
      setOptions(socket);
      const origin = originOf(socket);
      const connection = adoptSocket(binding, socket, peerOf(socket), origin, undefined, {
        context,
        keyOf: () => undefined,
        secured: (outcome) => {
          try {
            expected.check(shownBy(outcome));
          } catch (error) {
            failed(error as Error);
            return;
          }
          connection?.prove(origin, expected);
          if (connection !== undefined) opened(connection);
        },
        failed,
      });
      if (connection === undefined) throw new FsError('EIO', `cannot speak TLS with ${peerOf(socket)}`);
      return connection;
    },
    explain: expected.explainHandshake,
  };
}

function nodeWay(options: ConnectionOptions, usually: <T>(make: () => T) => T, expected: Expectation): Way {
  return {
    intoSpace: true,
    readyEvent: 'secureConnect',
    make: (to) => usually(() => connect({ ...OPTIONS, ...to, ...options })),
    take: (socket, opened) => {
      const secure = socket as TLSSocket;
      const certificate = secure.getPeerCertificate();
      expected.check({
        usedKey: secure.isSessionReused(),
        certificate: certificate.subject === undefined ? undefined : certificate,
        // Node has checked the name too.
        trouble: secure.authorized ? undefined : String(secure.authorizationError ?? NO_CERTIFICATE),
      });
      setOptions(socket);
      const { checkFirst, explain } = expected;
      opened(
        new NetConnection(socket, {
          intoSpace: true,
          explain,
          ...(checkFirst === undefined ? {} : { checkFirst }),
        }),
      );
      return socket;
    },
    explain: expected.explainHandshake,
  };
}

function keyWay(address: Address, { identity, key }: Key, binding: NativeBinding | undefined): Way {
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
  const expected: Expectation = {
    // OpenSSL calls a handshake by key a resumed session too. We offer no other.
    check: ({ usedKey }) => {
      if (!usedKey) throw unknown();
    },
    explain: (error) => explainOpen(error, explain),
    explainHandshake: explain,
  };
  if (binding?.TlsContext !== undefined) {
    const context = new binding.TlsContext(false, undefined, undefined, undefined, identity, key);
    return addonWay(binding, context, expected);
  }
  const options = {
    // No certificate proves anything here. Without this, Node would load those of all public CAs.
    ca: [],
    // The key keeps a quantum computer out. A share that does so too would only make the ClientHello five times as long.
    ecdhCurve: 'X25519:P-256',
    checkServerIdentity: () => undefined,
    pskCallback: () => ({ identity, psk: key }),
  };
  return nodeWay(options, (make) => make(), expected);
}

function certificateWay(address: Address, files: CertificateFiles, binding: NativeBinding | undefined): Way {
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
  const identityOf = (certificate: PeerCertificate): Error | undefined =>
    checkServerIdentity(address.host, certificate);
  const expected: Expectation = {
    check: ({ usedKey, certificate, trouble }) => {
      const wrongName =
        certificate === undefined ? undefined : (identityOf(certificate) as NodeJS.ErrnoException);
      const code = certificate === undefined || usedKey ? NO_CERTIFICATE : (trouble ?? wrongName?.code);
      if (code === undefined) return;
      const why = certificateTrouble(code, certificate, files.ca, Date.now(), address.host);
      throw new FsError('EACCES', `not connected to ${at}: its ${why.replace(/^the /, '')}`);
    },
    checkFirst: (chunk) => {
      const why = turnedAway(chunk);
      return why === undefined ? undefined : refused(why);
    },
    explain: (error) => explainOpen(error, explain),
    explainHandshake: explain,
  };
  const usually = <T>(make: () => T): T => usable(files, 'EACCES', make);
  const Context = binding?.TlsContext;
  if (binding !== undefined && Context !== undefined) {
    return addonWay(
      binding,
      usually(() => new Context(false, texts.cert, texts.key, texts.ca)),
      expected,
    );
  }
  const options = {
    ...texts,
    checkServerIdentity: (_name: string, certificate: PeerCertificate) => identityOf(certificate),
  };
  return nodeWay(options, usually, expected);
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
