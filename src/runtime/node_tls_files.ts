/** Certificate files: their content, and whether they have changed. They are small, so they are read in one go. */

import { X509Certificate } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { FsError } from '../base/errno.js';
import { reasonOf } from './node_tls_texts.js';
import type { CertificateFiles } from './ports.js';

/** As node:tls wants it. */
export interface CertificateTexts {
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly ca: Buffer;
}

/** Changes when one of the files does. */
export function stampOf(files: CertificateFiles | undefined): string {
  const paths = files === undefined ? [] : [files.certificate, files.key, files.ca];
  return paths
    .map((path) => {
      const { ino, size, mtimeNs } = statSync(path, { bigint: true, throwIfNoEntry: false }) ?? {};
      return `${ino} ${size} ${mtimeNs}`;
    })
    .join();
}

/** @throws the error of the file that cannot be read, or is no certificate. */
export function readFiles(files: CertificateFiles): CertificateTexts {
  const cert = certificateIn(files.certificate);
  // Node takes a file without a CA, and then nobody can prove anything.
  return { cert, key: readFileSync(files.key), ca: certificateIn(files.ca) };
}

function certificateIn(path: string): Buffer {
  const text = readFileSync(path);
  try {
    new X509Certificate(text);
  } catch (error) {
    throw new Error(`${path} has no certificate in PEM: ${reasonOf(error as Error)}`, { cause: error });
  }
  return text;
}

/** @returns what `make` makes of the files. @throws FsError of this errno, which names the files, if that cannot be done. */
export function usable<T>(files: CertificateFiles, errno: 'EINVAL' | 'EACCES', make: () => T): T {
  try {
    return make();
  } catch (error) {
    const names = `certificate ${files.certificate}, key ${files.key} and CA ${files.ca} cannot be used`;
    const why = error instanceof Error && !('reason' in error) ? error.message : reasonOf(error as Error);
    throw new FsError(errno, `${names}: ${why}`, { cause: error });
  }
}
