/** What both implementations of TLS, the addon's and node:tls, have in common: the form of a handshake and of its outcome. */

import { X509Certificate } from 'node:crypto';
import type { Socket } from 'node:net';
import type { PeerCertificate } from 'node:tls';
import type { TlsOutcome } from '../../native/binding.js';
import type { Destroyable } from './node_dial.js';
import type { NetConnection } from './node_net_connection.js';
import type { StreamConnection } from './node_stream.js';
import type { Origin } from './ports.js';

/** A trouble: there is none to judge. */
export const NO_CERTIFICATE = 'no certificate';

export interface Shown {
  /** Both sides have the key of this handshake. */
  readonly usedKey: boolean;
  /** The peer's. */
  readonly certificate: PeerCertificate | undefined;
  /** Why the certificate does not count: a code of OpenSSL. undefined: it does. */
  readonly trouble: string | undefined;
}

/** A connection whose handshake is done. One of its methods is called. */
export interface Secured {
  /** It begins with start(). */
  connection(origin: Origin): StreamConnection | NetConnection;
  /** Sends the line and ends in order. */
  turnAway(line: Buffer, closed: () => void): void;
  destroy(): void;
}

/** Handshakes of one implementation, with one set of certificates. */
export interface Handshaker {
  /**
   * @param raw nothing more is read from it than `hello`.
   * @returns what has the connection now: `raw`, or what has taken it over.
   */
  handshake(raw: Socket, hello: Buffer, peer: string, answers: HandshakeAnswers): Destroyable;
}

/** done() or failed() is called, once; none after the handshake was destroyed. */
export interface HandshakeAnswers {
  keyOf(identity: string): Uint8Array | undefined;
  done(secured: Secured, shown: Shown): void;
  failed(error: Error & { readonly code?: string }): void;
}

/** Numbers of X509_V_ERR_NAME (openssl/x509_vfy.h), for those that have a text of ours. */
const VERIFY_CODES: Readonly<Record<number, string>> = {
  2: 'UNABLE_TO_GET_ISSUER_CERT',
  7: 'CERT_SIGNATURE_FAILURE',
  9: 'CERT_NOT_YET_VALID',
  10: 'CERT_HAS_EXPIRED',
  18: 'DEPTH_ZERO_SELF_SIGNED_CERT',
  19: 'SELF_SIGNED_CERT_IN_CHAIN',
  20: 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  21: 'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  26: 'INVALID_PURPOSE',
};

export function shownBy({ usedKey, certificate, verifyResult, verifyText }: TlsOutcome): Shown {
  return {
    usedKey,
    certificate: certificate === undefined ? undefined : new X509Certificate(certificate).toLegacyObject(),
    trouble: verifyResult === 0 ? undefined : (VERIFY_CODES[verifyResult] ?? verifyText),
  };
}
