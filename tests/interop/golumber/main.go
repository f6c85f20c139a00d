// A peer for the interop suite and for the benchmark: go-lumber's server and client, which Beats use.
//
//	golumber serve [flags]        prints `port N`, then each event as it came, one a line
//	golumber send ADDRESS [flags] sends numbered events, or those of a file again and again
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	client "github.com/elastic/go-lumber/client/v2"
	"github.com/elastic/go-lumber/lj"
	"github.com/elastic/go-lumber/server"
)

func main() {
	err := errors.New("usage: golumber serve | send ADDRESS, then flags")
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		err = serve(os.Args[2:])
	} else if len(os.Args) > 2 && os.Args[1] == "send" {
		err = send(os.Args[2], os.Args[3:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "golumber:", err)
		os.Exit(1)
	}
}

// The files of one side's TLS; all empty for plain connections.
type files struct{ cert, key, ca string }

func (f *files) flags(set *flag.FlagSet) {
	set.StringVar(&f.cert, "cert", "", "own certificate, PEM")
	set.StringVar(&f.key, "key", "", "its key, PEM")
	set.StringVar(&f.ca, "ca", "", "whom to trust, PEM")
}

func (f *files) read() (*tls.Config, error) {
	if *f == (files{}) {
		return nil, nil
	}
	config := &tls.Config{}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	if f.ca != "" {
		pem, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, errors.New("no certificate in " + f.ca)
		}
		config.RootCAs, config.ClientCAs = pool, pool
	}
	return config, nil
}

func serve(args []string) error {
	set := flag.NewFlagSet("serve", flag.ExitOnError)
	v1 := set.Bool("v1", false, "speak version 1 only; without it version 2 only")
	quiet := set.Bool("quiet", false, "neither look at events nor print them")
	var own files
	own.flags(set)
	if err := set.Parse(args); err != nil {
		return err
	}
	config, err := own.read()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println("port", listener.Addr().(*net.TCPAddr).Port)
	if config != nil {
		if own.ca != "" {
			config.ClientAuth = tls.RequireAndVerifyClientCert
		}
		listener = tls.NewListener(listener, config)
	}
	decode := keep
	if *quiet {
		decode = func([]byte, interface{}) error { return nil }
	}
	s, err := server.NewWithListener(listener,
		server.V1(*v1), server.V2(!*v1), server.JSONDecoder(decode))
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	for batch := range s.ReceiveChan() {
		if !*quiet {
			if err := show(out, batch); err != nil {
				return err
			}
		}
		batch.ACK()
	}
	return nil
}

// keep takes an event's bytes as they are; go-lumber reuses its buffer.
func keep(bytes []byte, event interface{}) error {
	if !json.Valid(bytes) {
		return errors.New("not JSON")
	}
	*(event.(*interface{})) = json.RawMessage(append([]byte(nil), bytes...))
	return nil
}

func show(out *bufio.Writer, batch *lj.Batch) error {
	for _, event := range batch.Events {
		line, raw := event.(json.RawMessage)
		if !raw {
			pairs, err := json.Marshal(event)
			if err != nil {
				return err
			}
			line = pairs
		}
		if _, err := out.Write(append(line, '\n')); err != nil {
			return err
		}
	}
	return out.Flush()
}

func send(address string, args []string) error {
	set := flag.NewFlagSet("send", flag.ExitOnError)
	async := set.Int("async", 0, "windows in flight of the asynchronous client; 0: the synchronous one")
	level := set.Int("level", 3, "compression level, 0 to 9")
	window := set.Int("window", 100, "events of a window")
	count := set.Int("count", 1000, "events to send")
	sent := set.String("sent", "", "file for the bytes of each event, one a line")
	events := set.String("events", "", "file of ready events, one a line, sent until there are enough; says what it cost")
	var own files
	own.flags(set)
	if err := set.Parse(args); err != nil {
		return err
	}
	all, err := ready(*events, *count)
	if err != nil {
		return err
	}
	if err := note(*sent, all); err != nil {
		return err
	}
	dial, err := dialer(&own)
	if err != nil {
		return err
	}
	connection, err := client.DialWith(dial, address,
		client.JSONEncoder(func(event interface{}) ([]byte, error) { return event.([]byte), nil }),
		client.CompressionLevel(*level), client.Timeout(30*time.Second))
	if err != nil {
		return err
	}
	started, before := time.Now(), cpu()
	if *async > 0 {
		err = sendAsync(connection, *async, *window, *count, all)
	} else {
		err = sendSync(connection, *window, *count, all)
	}
	if err == nil && *events != "" {
		fmt.Println("events", *count, "cpu_us", (cpu() - before).Microseconds(),
			"wall_us", time.Since(started).Microseconds())
	}
	return err
}

// ready gives the events to send: those of the file, or `count` numbered ones.
func ready(file string, count int) ([]interface{}, error) {
	var all []interface{}
	if file == "" {
		for n := 0; n < count; n++ {
			event := fmt.Sprintf(`{"@timestamp":"2026-11-21T08:08:08.123Z","@metadata":{"beat":"interop"},`+
				`"message":"line %s \u00e9 \" %d","number":%d}`, "\u00e9", n, n)
			all = append(all, []byte(event))
		}
		return all, nil
	}
	in, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		all = append(all, append([]byte(nil), lines.Bytes()...))
	}
	if len(all) == 0 && lines.Err() == nil {
		return nil, errors.New("no events in " + file)
	}
	return all, lines.Err()
}

func note(file string, all []interface{}) error {
	if file == "" {
		return nil
	}
	var bytes []byte
	for _, event := range all {
		bytes = append(append(bytes, event.([]byte)...), '\n')
	}
	return os.WriteFile(file, bytes, 0o600)
}

func dialer(own *files) (func(network, address string) (net.Conn, error), error) {
	config, err := own.read()
	if err != nil || config == nil {
		return net.Dial, err
	}
	return func(network, address string) (net.Conn, error) {
		return tls.Dial(network, address, config)
	}, nil
}

// windows calls `each` with one window after the other, until `count` events are in them.
func windows(size, count int, all []interface{}, each func([]interface{}) error) error {
	at := 0
	for count > 0 {
		if at >= len(all) {
			at = 0
		}
		end := at + size
		if end > len(all) {
			end = len(all)
		}
		if end > at+count {
			end = at + count
		}
		if err := each(all[at:end]); err != nil {
			return err
		}
		count -= end - at
		at = end
	}
	return nil
}

func sendSync(connection *client.Client, size, count int, all []interface{}) error {
	c, err := client.NewSyncClientWith(connection)
	if err != nil {
		return err
	}
	defer c.Close()
	return windows(size, count, all, func(window []interface{}) error {
		acked, err := c.Send(window)
		if err == nil && acked != len(window) {
			err = fmt.Errorf("%d of %d events acknowledged", acked, len(window))
		}
		return err
	})
}

func sendAsync(connection *client.Client, inflight, size, count int, all []interface{}) error {
	c, err := client.NewAsyncClientWith(connection, inflight)
	if err != nil {
		return err
	}
	defer c.Close()
	type answer struct {
		acked, of int
		err       error
	}
	// The callback must not block: there is room for the answers to all windows.
	answers := make(chan answer, count/size+2+count/len(all))
	sent := 0
	err = windows(size, count, all, func(window []interface{}) error {
		of := len(window)
		sent++
		return c.Send(func(acked uint32, err error) { answers <- answer{int(acked), of, err} }, window)
	})
	for ; err == nil && sent > 0; sent-- {
		a := <-answers
		err = a.err
		if err == nil && a.acked != a.of {
			err = fmt.Errorf("%d of %d events acknowledged", a.acked, a.of)
		}
	}
	return err
}

func cpu() time.Duration {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
