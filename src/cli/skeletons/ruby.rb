#!/usr/bin/env ruby
# Each line on standard output becomes an event; an exit code other than 0 is a failed run.
$stdout.sync = true # lines leave at once, not when the script ends

puts 'hello from ruby'
warn "last success: #{ENV.fetch('SPOOLBEAT_LAST_SUCCESS_AT', 'never')}"
