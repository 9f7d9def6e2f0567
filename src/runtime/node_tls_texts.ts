/**
 * What TLS says, for people: one line, which names the cause, and no secret. Also the line with which a listener turns a client
 * away whose handshake is done: TLS has its own alerts for that, but Node cannot send them.
 *
 * A client that was turned away reads the line through TLS, so it comes from the server. Frames of the protocol begin with
 * other bytes.
 */

import type { PeerCertificate } from 'node:tls';
import { FsError } from '../base/errno.js';

/** TLS_AES_128_GCM_SHA256: fast wherever the processor knows AES, and its hash is the one for which a bare key counts. */
export const CIPHER = 'TLS_AES_128_GCM_SHA256';

const TURNED_AWAY = 'HFNO ';
const LINE_MAX = 500;

export function turningAway(why: string): Buffer {
  return Buffer.from(TURNED_AWAY + why.slice(0, LINE_MAX));
}

/** @param chunk the first bytes of a connection. @returns why the listener has turned us away, if it has. */
export function turnedAway(chunk: Uint8Array): string | undefined {
  const text = Buffer.from(chunk.subarray(0, TURNED_AWAY.length + LINE_MAX)).toString();
  return text.startsWith(TURNED_AWAY) ? inOneLine(text.slice(TURNED_AWAY.length)) : undefined;
}

/** Text of a stranger: no control characters, and an end. */
export function inOneLine(text: string): string {
  return text.replaceAll(/[\p{Cc}\u2028\u2029]+/gu, ' ').slice(0, LINE_MAX);
}

export function quoted(identity: string): string {
  return JSON.stringify(inOneLine(identity).slice(0, 100));
}

/** What OpenSSL says, without its places in the source. */
export function reasonOf(error: Error): string {
  const { reason, code } = error as { readonly reason?: string; readonly code?: string };
  return inOneLine(reason ?? code ?? error.message);
}

/** The alert with which the peer has broken TLS. @returns 0 if it has sent none. */
export function alertOf(error: Error): number {
  const { alert } = error as { readonly alert?: number };
  // Node says it in the text.
  return alert ?? Number(/SSL alert number (\d+)/.exec(error.message)?.[1] ?? 0);
}

/** What has ended a connection whose handshake was done. */
export function broken(error: Error): Error {
  const { code = '' } = error as NodeJS.ErrnoException;
  if (!code.startsWith('ERR_SSL')) return error;
  return new FsError('EPROTO', `the peer broke TLS: ${reasonOf(error)}`, { cause: error });
}

/** To the second, in UTC. */
function dateOf(time: string | number): string {
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? String(time) : date.toISOString().replace(/\.\d+Z$/, 'Z');
}

function nameOf({ subject }: PeerCertificate): string {
  const name = subject?.CN ?? subject?.O ?? 'without a name';
  return quoted(Array.isArray(name) ? name.join(', ') : name);
}

/**
 * What is wrong with a certificate.
 * @param code of OpenSSL, or Node's for a wrong name.
 * @param ca the file with the CAs that count.
 * @param nowMs the time of day here.
 */
export function certificateTrouble(
  code: string,
  certificate: PeerCertificate | undefined,
  ca: string,
  nowMs: number,
  host = '',
): string {
  if (certificate === undefined) return 'the certificate is missing';
  const name = nameOf(certificate);
  const begins = Date.parse(certificate.valid_from);
  const ends = Date.parse(certificate.valid_to);
  switch (code) {
    case 'CERT_HAS_EXPIRED':
      if (ends >= nowMs) return `the certificate of the CA that signed certificate ${name} has expired`;
      return `certificate ${name} expired on ${dateOf(ends)}, and it is ${dateOf(nowMs)} here`;
    case 'CERT_NOT_YET_VALID':
      if (begins <= nowMs)
        return `the certificate of the CA that signed certificate ${name} is not valid yet`;
      return `certificate ${name} is not valid before ${dateOf(begins)}, and it is ${dateOf(nowMs)} here: compare the clocks`;
    case 'ERR_TLS_CERT_ALTNAME_INVALID':
      return `the certificate is for ${namesText(certificate)}, and not for ${host}`;
    case 'INVALID_PURPOSE':
      return `certificate ${name} is not for this purpose: its extended key usage says so`;
    case 'DEPTH_ZERO_SELF_SIGNED_CERT':
    case 'SELF_SIGNED_CERT_IN_CHAIN':
    case 'UNABLE_TO_GET_ISSUER_CERT':
    case 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY':
    case 'UNABLE_TO_VERIFY_LEAF_SIGNATURE':
    case 'CERT_SIGNATURE_FAILURE':
      return `certificate ${name} is not signed by a CA in ${ca}`;
    default:
      return `certificate ${name} is not valid: ${inOneLine(code)}`;
  }
}

function namesText(certificate: PeerCertificate): string {
  const names = [...alternativeNames(certificate.subjectaltname ?? '', ['DNS', 'IP Address'])];
  return names.length > 0 ? inOneLine(names.join(', ')) : `${nameOf(certificate)}, without other names`;
}

/** The subject's common name, then the DNS names. */
export function namesOf(certificate: PeerCertificate): string[] {
  const common = certificate.subject?.CN as string | string[] | undefined;
  return [
    ...(Array.isArray(common) ? common : [common ?? '']),
    ...alternativeNames(certificate.subjectaltname ?? '', ['DNS']),
  ].filter((name) => name !== '');
}

/** Node's text is `DNS:one, IP Address:two`; a value with special characters is a string of JSON, and no name that we know. */
function* alternativeNames(text: string, kinds: readonly string[]): Generator<string> {
  const one = /([A-Za-z0-9 ]+):("(?:[^"\\]|\\.)*"|[^,"]*)(?:, |$)/y;
  for (let found = one.exec(text); found !== null; found = one.exec(text)) {
    const [, kind = '', value = ''] = found;
    if (kinds.includes(kind) && !value.startsWith('"')) yield value;
    if (one.lastIndex >= text.length) return;
  }
}
