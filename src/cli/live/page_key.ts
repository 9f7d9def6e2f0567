/**
 * The key of a live page: a secret in a file, which a browser asks for as the password of HTTP Basic, whatever the name. So there is no
 * page for the login, no cookie, and nothing that a process has to remember: the successor of a server asks for the same key, and the
 * browser sends it without asking again.
 */

import { createHash, timingSafeEqual } from 'node:crypto';
import { FsError } from '../../base/errno.js';
import { readSecretText } from '../key_file.js';

const MAKE_ONE = '(umask 077; openssl rand -hex 24 > FILE) makes one';
/** So long that nobody guesses it. */
const KEY = /^[\x21-\x7e]{16,256}$/;

export class PageKey {
  readonly #digest: Buffer;

  constructor(key: string) {
    this.#digest = digest(key);
  }

  /** @throws FsError EACCES for a file that others may read, ENOENT, EINVAL for one without a key. */
  static read(path: string): PageKey {
    const [line = ''] = readSecretText(path, MAKE_ONE).split('\n');
    const key = line.trim();
    if (KEY.test(key)) return new PageKey(key);
    throw new FsError('EINVAL', `the first line of ${path} is no key of 16 to 256 characters; ${MAKE_ONE}`);
  }

  /** Takes as long for every wrong key. @param authorization the header of the request. */
  accepts(authorization: string | undefined): boolean {
    const [, encoded] = /^Basic +([A-Za-z0-9+/=]+)$/i.exec(authorization ?? '') ?? [];
    const text = Buffer.from(encoded ?? '', 'base64').toString('utf8');
    const given = text.slice(text.indexOf(':') + 1);
    return timingSafeEqual(digest(given), this.#digest) && encoded !== undefined;
  }
}

function digest(key: string): Buffer {
  return createHash('sha256').update(key).digest();
}
