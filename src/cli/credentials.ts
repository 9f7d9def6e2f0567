/** With what a command or a mount proves who it is: the kernel's word on this host, a key file, or a certificate. */

import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { Proofs } from '../../mount/options.js';
import { FsError } from '../base/errno.js';
import type { Credentials } from '../runtime/ports.js';
import { checkPrivateKey, defaultKeyPath, readKeyFile } from './key_file.js';

export interface Prover {
  /**
   * Reads the files, for one connection: they may have been renewed. undefined: there is only what the kernel says of this process.
   * @throws FsError EACCES, ENOENT, EINVAL (a key file).
   */
  credentials(): Credentials | undefined;
  /** The entry of the access table that these proofs belong to. */
  readonly claim: { readonly name: string; readonly targetUuid?: string | undefined } | undefined;
}

/**
 * @param label of the filesystem, if the user has named it.
 * @throws FsError EACCES, ENOENT, EINVAL: a file that is not there, may be read by others, or is not what it should be.
 */
export function proverOf(proofs: Proofs, label?: string): Prover {
  switch (proofs.by) {
    case 'nothing':
      return { credentials: () => ({ kind: 'plain' }), claim: undefined };
    case 'certificate': {
      const { files } = proofs;
      checkPrivateKey(files.key);
      return {
        credentials: () => {
          checkPrivateKey(files.key);
          return { kind: 'certificate', files };
        },
        claim: { name: nameIn(files.certificate) },
      };
    }
    case 'key':
      return keyProver(proofs.path, true);
    case 'default': {
      const path = defaultKeyPath(label);
      return path === undefined ? { credentials: () => undefined, claim: undefined } : keyProver(path, false);
    }
  }
}

/** @param isNamed the user means this key, and not that the filesystem may have another one: it has to be of the target. */
function keyProver(path: string, isNamed: boolean): Prover {
  const { name, targetUuid } = readKeyFile(path);
  const credentials = (): Credentials => {
    const { id, secret } = readKeyFile(path);
    return { kind: 'key', identity: id, key: secret };
  };
  return { credentials, claim: isNamed ? { name } : { name, targetUuid } };
}

function nameIn(path: string): string {
  let text: Buffer;
  try {
    text = readFileSync(path);
  } catch (cause) {
    throw new FsError('ENOENT', `the certificate ${path} cannot be read: ${(cause as Error).message}`, {
      cause,
    });
  }
  try {
    const { subject } = new X509Certificate(text);
    const [, name] = /^CN=(.+)$/m.exec(subject) ?? [];
    if (name !== undefined) return name;
  } catch (cause) {
    throw new FsError('EINVAL', `${path} is no certificate in PEM: ${(cause as Error).message}`, { cause });
  }
  throw new FsError('EINVAL', `the certificate ${path} has no common name (CN)`);
}
