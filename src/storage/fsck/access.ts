/**
 * The access table: its entries, and the superblock's bit that says that there are any.
 *
 * A table that has lost entries keeps out those who connected with them; one that has lost all of them would let everybody in.
 * So where no entry is whole, the repair puts one in that lets nobody in. The server of the target starts then, and root of
 * its own host adds the entries anew. For the same reason fsck never clears the bit: no transaction leaves the bit without
 * entries, so they were lost.
 *
 * No line names a secret.
 */

import { FsError } from '../../base/errno.js';
import type { Checksum } from '../../runtime/ports.js';
import { ACCESS_NAME, type AccessRecord } from '../api.js';
import { decodeAccess, encodeAccess } from '../format/access_record.js';
import { accessKey, accessNameOf, bareKey, KEY } from '../format/keys.js';
import { decodeTicketSecret } from '../format/records.js';
import { FEATURE_ACCESS } from '../format/superblock.js';
import type { RepairTx } from './repair.js';
import { type FsckContext, type KeyValue, scanType } from './scan.js';

/** No certificate has both this name and that address. */
const NOBODY: AccessRecord = {
  name: 'nobody',
  kind: 'certificate',
  keys: [],
  readOnly: true,
  squashRoot: true,
  admin: false,
  from: ['0.0.0.0/32'],
  createdMs: 0,
  limits: { clients: 0 },
};
const LETS_NOBODY_IN =
  `the table has the entry "${NOBODY.name}" now, which lets nobody in: ` +
  `add the entries anew, then remove that one`;

export async function checkAccess(context: FsckContext): Promise<void> {
  const { findings, counts, superblock, runtime } = context;
  const broken: Buffer[] = [];
  let whole = 0;
  await scanType(context, KEY.access, (record) => {
    counts.access++;
    if (isWhole(record)) whole++;
    else broken.push(Buffer.from(record.key));
  });
  for (const key of broken) {
    findings.add({
      kind: 'damaged-record',
      text: `the record of ${named(key)} is damaged`,
      repair: {
        stage: 'records',
        done: `removed, so that nobody can connect with it${whole > 0 ? '' : `; ${LETS_NOBODY_IN}`}`,
        apply: (tx) => {
          tx.remove(key);
          if (whole === 0) closeTable(tx, runtime.checksum);
        },
      },
    });
  }
  await checkTicketSecret(context, counts.access > 0);
  const hasBit = (superblock.featuresIncompat & FEATURE_ACCESS) !== 0;
  if (counts.access > 0 && !hasBit) {
    findings.add({
      kind: 'access',
      text: `the target has ${counts.access} access entries and no feature bit for them: earlier releases would let everybody in`,
      repair: {
        stage: 'records',
        done: 'bit set',
        apply: (tx) => tx.addFeatures(FEATURE_ACCESS, runtime.checksum),
      },
    });
  } else if (counts.access === 0 && hasBit) {
    findings.add({
      kind: 'access',
      text: 'the target has the feature bit of the access table and no entry: the table is lost',
      repair: { stage: 'records', done: LETS_NOBODY_IN, apply: (tx) => closeTable(tx, runtime.checksum) },
    });
  }
}

/** Without a secret the server makes one: the tickets that clients have are void then, and files that they had open are lost to them. */
async function checkTicketSecret(context: FsckContext, hasEntries: boolean): Promise<void> {
  const key = bareKey(KEY.ticketSecret);
  await scanType(context, KEY.ticketSecret, ({ value }) => {
    const isDamaged = !isTicketSecret(value);
    // Releases that do not know the table take such a record for damage.
    if (!isDamaged && hasEntries) return;
    context.findings.add({
      kind: isDamaged ? 'damaged-record' : 'access',
      text: isDamaged
        ? 'the record of the ticket secret is damaged'
        : 'there is a ticket secret and no access entry',
      repair: {
        stage: 'records',
        done: isDamaged
          ? 'removed, so that the server makes a new one: files that clients with access entries have open are lost to them'
          : 'removed',
        apply: (tx) => tx.remove(key),
      },
    });
  });
}

function isTicketSecret(value: Buffer): boolean {
  try {
    decodeTicketSecret(value);
    return true;
  } catch (thrown) {
    if (!(thrown instanceof FsError)) throw thrown;
    return false;
  }
}

function closeTable(tx: RepairTx, checksum: Checksum): void {
  tx.put(accessKey(NOBODY.name), encodeAccess(NOBODY));
  tx.addFeatures(FEATURE_ACCESS, checksum);
}

function named(key: Buffer): string {
  const name = accessNameOf(key);
  if (ACCESS_NAME.test(name)) return `access entry ${JSON.stringify(name)}`;
  return `the access entry with key ${key.subarray(0, 40).toString('hex')}, which is no name,`;
}

function isWhole({ key, value }: KeyValue): boolean {
  try {
    decodeAccess(accessNameOf(key), value);
    return true;
  } catch (thrown) {
    if (!(thrown instanceof FsError)) throw thrown;
    return false;
  }
}
