/**
 * Runs `holdfast fsck`: opens the devices exclusively, takes the multi-mount block so that no server starts meanwhile, checks
 * the target, and prints the report.
 */

import { printable } from '../base/printable.js';
import { nodeRuntime } from '../runtime/node_runtime.js';
import { fsckTarget } from '../storage/fsck/fsck.js';
import type { FsckReport, ReportedFinding } from '../storage/fsck/report.js';
import { CliError, describeFailure } from './failure.js';
import { formatBytes } from './format.js';
import { FsckProgress } from './fsck_progress.js';
import { type ResolvedPair, resolveDevices, withNames, withTarget } from './target_devices.js';

export interface FsckCommandOptions {
  readonly meta: string;
  readonly data: string;
  readonly checksums?: boolean;
  readonly repair?: boolean;
  readonly force?: boolean;
  readonly addChecksums?: boolean;
  readonly json?: boolean;
}

/** Exit status (fsck.ts). */
const FSCK_REPAIRED = 1;
const FSCK_LEFT = 4;
const FSCK_FAILED = 8;

const BLOCK_BYTES = 4096;

/** @throws CliError, unless all is well. Its exit status says what fsck found. */
export async function fsck(options: FsckCommandOptions): Promise<void> {
  const isJson = options.json === true;
  const progress = isJson ? undefined : new FsckProgress(process.stderr);
  let report: FsckReport;
  let named: (text: string) => string = (text) => text;
  try {
    const pair = await resolveDevices(options);
    named = (text) => pair.named(text);
    try {
      report = await check(pair, options, progress);
    } catch (thrown) {
      throw withNames(pair, thrown);
    } finally {
      progress?.end();
      await pair.release();
    }
  } catch (thrown) {
    const { line } = describeFailure(thrown);
    if (isJson) print(JSON.stringify({ exitStatus: FSCK_FAILED, error: line }));
    throw new CliError(line, FSCK_FAILED, { cause: thrown });
  }
  const status = exitStatus(report);
  const findings = report.findings.map((finding) => ({ ...finding, text: named(finding.text) }));
  if (isJson) print(JSON.stringify(jsonOf({ ...report, findings }, status)));
  else for (const line of textOf({ ...report, findings })) print(printable(line));
  if (status !== 0) throw new CliError(summary(report), status);
}

async function check(
  pair: ResolvedPair,
  options: FsckCommandOptions,
  progress: FsckProgress | undefined,
): Promise<FsckReport> {
  const runtime = nodeRuntime();
  return withTarget(runtime, pair, 'fsck', async ({ devices, claim }) => {
    if (options.repair === true) await pair.reserve();
    return fsckTarget(runtime, devices, {
      repair: options.repair,
      force: options.force,
      addChecksums: options.addChecksums,
      checksums: options.checksums,
      progress: progress === undefined ? undefined : (...at) => progress.show(...at),
      claim,
    });
  });
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

function exitStatus({ repaired, left }: FsckReport): number {
  return (repaired > 0 ? FSCK_REPAIRED : 0) + (left > 0 ? FSCK_LEFT : 0);
}

function summary({ repaired, left, repairable }: FsckReport): string {
  const parts: string[] = [];
  if (repaired > 0) parts.push(`${repaired} errors repaired`);
  if (left > 0) parts.push(`${left} errors left`);
  if (repairable > 0) parts.push(`--repair repairs ${repairable} of them`);
  return parts.join(', ');
}

/** The shape of --json. */
function jsonOf(report: FsckReport, status: number): unknown {
  const { superblock, ...rest } = report;
  const target =
    superblock === undefined
      ? null
      : {
          label: superblock.label,
          filesystemUuid: superblock.filesystemUuid,
          targetUuid: superblock.targetUuid,
          targetIndex: superblock.targetIndex,
          softwareVersion: superblock.softwareVersion,
          instance: superblock.instance,
          clean: superblock.clean,
        };
  return { exitStatus: status, target, ...rest };
}

function textOf(report: FsckReport): string[] {
  const { superblock, counts } = report;
  const lines: string[] = [];
  if (superblock !== undefined) {
    const { label, targetUuid, clean, softwareVersion } = superblock;
    const stopped = clean
      ? 'stopped cleanly'
      : `not stopped cleanly (version ${softwareVersion}): clients may still have changes`;
    lines.push(`${label} (${targetUuid}): ${stopped}`);
  }
  lines.push(...report.findings.map(findingText));
  const hidden = report.repaired + report.left - report.findings.length;
  if (hidden > 0) lines.push(`and ${hidden} more`);
  lines.push(
    `${counts.inodes} inodes, ${counts.directories} of them directories; ${counts.names} names; ` +
      `${counts.orphans} orphans; ${formatBytes(counts.blocks * BLOCK_BYTES)} in use; ` +
      (counts.checksums > 0
        ? `${formatBytes(counts.checksums * BLOCK_BYTES)} compared with checksums`
        : 'checksums not compared'),
  );
  if (report.checksumsAdded !== undefined) {
    const rest = report.checksumsLackRoom === true ? '; the meta device has no room for the others' : '';
    lines.push(`${report.checksumsAdded} records got a checksum${rest}`);
  }
  if (report.repaired + report.left === 0) lines.push('clean');
  return lines;
}

function findingText({ kind, text, path, repaired }: ReportedFinding): string {
  const where = path === undefined ? '' : ` (${JSON.stringify(path)})`;
  return `${kind}: ${text}${where}${repaired === undefined ? '' : `: ${repaired}`}`;
}
