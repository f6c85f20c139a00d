#!/usr/bin/env perl
# Each line on standard output becomes an event; an exit code other than 0 is a failed run.
use strict;
use warnings;

$| = 1; # lines leave at once, not when the script ends
print "hello from perl\n";
print STDERR "last success: ", $ENV{SPOOLBEAT_LAST_SUCCESS_AT} // 'never', "\n";
