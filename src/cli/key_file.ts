/**
 * The file that holds a client's key: a few lines of text, readable only for its owner.
 *
 *     holdfast-key 1
 *     filesystem LABEL
 *     target UUID
 *     name NAME
 *     id 16 hexadecimal digits
 *     secret 32 bytes in base64
 *
 * Lines that begin with # and lines with unknown words say nothing. Messages about a file never have anything of its secret.
 */

import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  readdirSync,
  readFileSync,
  type Stats,
  statSync,
} from 'node:fs';
import { join } from 'node:path';
import { FsError } from '../base/errno.js';

export interface ClientKey {
  readonly label: string;
  readonly targetUuid: string;
  /** The entry of the access table. */
  readonly name: string;
  readonly id: string;
  readonly secret: Buffer;
}

/** Where a mount looks for its key. */
const FOLDER = process.env.HOLDFAST_KEY_DIR ?? '/etc/holdfast';
const SUFFIX = '.key';
const FORMAT = 'holdfast-key';
const VERSION = '1';
const READABLE_FOR_OTHERS = 0o077;
/** All of others, and writing of the group. */
const OPEN_TO_OTHERS = 0o027;
const SECRET_BYTES = 32;
/** Far more than a key file has. */
const FILE_MAX_BYTES = 4096;

export function formatKey(key: ClientKey): string {
  return [
    '# A key of a Holdfast client. Whoever has it is this client: keep the file to its owner (mode 0600).',
    `${FORMAT} ${VERSION}`,
    `filesystem ${key.label}`,
    `target ${key.targetUuid}`,
    `name ${key.name}`,
    `id ${key.id}`,
    `secret ${key.secret.toString('base64')}`,
    '',
  ].join('\n');
}

/** @throws FsError EACCES for a file that others may read, ENOENT, EINVAL for one that is no key file. */
export function readKeyFile(path: string): ClientKey {
  return parseKey(readSecretText(path, '"holdfast access add NAME" on the server makes one'), path);
}

/**
 * Looks at the very file that it reads: between two looks at the path somebody else might put another one there.
 * @param otherwise how to make such a file, for whoever has none.
 * @throws FsError EACCES for a file that others may read, ENOENT, EINVAL for one that is no key file.
 */
export function readSecretText(path: string, otherwise: string): string {
  const fd = opened(path, otherwise);
  try {
    const stat = fstatSync(fd);
    // First: nobody should change the mode of a device.
    if (!stat.isFile() || stat.size > FILE_MAX_BYTES) throw new FsError('EINVAL', `${path} is no key file`);
    checkAccess(path, stat);
    return readFileSync(fd, 'utf8');
  } finally {
    closeSync(fd);
  }
}

/** @throws FsError EACCES */
function checkAccess(path: string, { mode, uid }: Stats): void {
  const own = process.geteuid?.() ?? 0;
  if (uid !== own && uid !== 0)
    throw new FsError('EACCES', `the key file ${path} belongs to user ${uid}, who could change it`);
  if ((mode & READABLE_FOR_OTHERS) !== 0) {
    const shown = (mode & 0o777).toString(8).padStart(4, '0');
    throw new FsError('EACCES', `others may read the key file ${path} (mode ${shown}): chmod 600 ${path}`);
  }
}

/**
 * The private key of a certificate. Sites let a group of services read such files, so it may have one.
 * @throws FsError EACCES if anybody may read it, or another user may change it. Whoever uses the file says what else is wrong with it.
 */
export function checkPrivateKey(path: string): void {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined || !stat.isFile()) return;
  const own = process.geteuid?.() ?? 0;
  if (stat.uid !== own && stat.uid !== 0)
    throw new FsError('EACCES', `the private key ${path} belongs to user ${stat.uid}, who could change it`);
  if ((stat.mode & OPEN_TO_OTHERS) === 0) return;
  const shown = (stat.mode & 0o777).toString(8).padStart(4, '0');
  throw new FsError(
    'EACCES',
    `others may read or change the private key ${path} (mode ${shown}): chmod 600 ${path}`,
  );
}

function opened(path: string, otherwise: string): number {
  try {
    // A pipe would be waited for.
    return openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    const isMissing = (cause as NodeJS.ErrnoException).code === 'ENOENT';
    if (!isMissing)
      throw new FsError('EACCES', `the key file ${path} cannot be read: ${(cause as Error).message}`, {
        cause,
      });
    throw new FsError('ENOENT', `there is no key file ${path}; ${otherwise}`, { cause });
  }
}

function parseKey(text: string, path: string): ClientKey {
  const words = new Map<string, string>();
  for (const line of text.split('\n')) {
    const [, word, value] = /^([a-z-]+) +(.*?)\s*$/.exec(line) ?? [];
    if (word !== undefined && value !== undefined && !words.has(word)) words.set(word, value);
  }
  const version = words.get(FORMAT);
  // Anything else may be a part of the secret, in a file whose lines are mixed up.
  if (version === undefined || !/^\d{1,9}$/.test(version))
    throw new FsError('EINVAL', `${path} is no key file: it has no line "${FORMAT} ${VERSION}"`);
  if (version !== VERSION) {
    throw new FsError(
      'EINVAL',
      `the key file ${path} has format ${version}, and this release knows format ${VERSION}`,
    );
  }
  const given = (word: string, shape: RegExp): string => {
    const value = words.get(word);
    if (value === undefined || !shape.test(value))
      throw new FsError('EINVAL', `the key file ${path} has no good line "${word}"`);
    return value;
  };
  const secret = Buffer.from(given('secret', /^[A-Za-z0-9+/]{43}=$/), 'base64');
  if (secret.length !== SECRET_BYTES)
    throw new FsError('EINVAL', `the key file ${path} has no good line "secret"`);
  return {
    label: given('filesystem', /^.{1,64}$/),
    targetUuid: given('target', /^[0-9a-f-]{36}$/),
    name: given('name', /^.{1,64}$/),
    id: given('id', /^[0-9a-f]{16}$/),
    secret,
  };
}

/** The key file of a filesystem. */
export function keyPathOf(label: string): string {
  return join(FOLDER, `${encodeURIComponent(label)}${SUFFIX}`);
}

/**
 * The key file for a mount that names none: that of its label, or the only one there is.
 * @returns undefined if there is none, or if several could be meant.
 */
export function defaultKeyPath(label: string | undefined): string | undefined {
  let names: string[];
  try {
    names = readdirSync(FOLDER).filter((name) => name.endsWith(SUFFIX));
  } catch {
    // No folder, or one that is not for us: no key.
    return undefined;
  }
  if (label !== undefined) {
    const path = keyPathOf(label);
    return names.some((name) => join(FOLDER, name) === path) ? path : undefined;
  }
  const [only, ...others] = names;
  return only !== undefined && others.length === 0 ? join(FOLDER, only) : undefined;
}
