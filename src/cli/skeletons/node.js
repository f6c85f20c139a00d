#!/usr/bin/env node
// Each line on standard output becomes an event; an exit code other than 0 is a failed run.
console.log('hello from node');
console.error(`last success: ${process.env.SPOOLBEAT_LAST_SUCCESS_AT ?? 'never'}`);
