#!/usr/bin/env pwsh
# Each line on standard output becomes an event; an exit code other than 0 is a failed run.
$ErrorActionPreference = 'Stop'

Write-Output 'hello from powershell'
$last = if ($env:SPOOLBEAT_LAST_SUCCESS_AT) { $env:SPOOLBEAT_LAST_SUCCESS_AT } else { 'never' }
[Console]::Error.WriteLine("last success: $last")
