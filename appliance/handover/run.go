package handover

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Run is the command's side: it requests an import of paths from the daemon at conn, a newly dialled admin socket,
// opens files for the daemon on request, and returns its result. "-" is standard input. onProgress is called
// periodically from one goroutine. Run closes conn.
//
// An *Error is the daemon's answer. When the daemon ends without an answer, the error says so; running the import
// again continues it. When ctx is done the daemon stops too, and the error is ctx's cause. Run sets req.Inputs.
func Run(ctx context.Context, conn net.Conn, req Request, paths []string, onProgress func(Progress)) (json.RawMessage,
	error) {
	defer conn.Close()
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("files can be passed over a Unix socket only, got %T", conn)
	}
	o, err := openWithin(ctx, paths)
	if err != nil {
		return nil, err
	}
	defer o.close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	result, err := o.run(socket, req, onProgress)
	if ctx.Err() != nil && err != nil {
		return nil, context.Cause(ctx)
	}
	return result, err
}

func (o *opener) run(conn *net.UnixConn, req Request, onProgress func(Progress)) (json.RawMessage, error) {
	from, err := upgrade(conn)
	if err != nil {
		return nil, gone(err)
	}
	for _, i := range o.inputs {
		req.Inputs = append(req.Inputs, i.named)
	}
	out := &sender{conn: conn}
	// An answer may have arrived already, a refusal, when writing fails because the daemon has closed the connection:
	// it is read anyway.
	sending := out.send(&message{Hello: &req}, nil)
	for i, in := range o.inputs {
		if in.file != nil && sending == nil {
			sending = out.send(&message{Input: &i}, in.file)
			in.file.Close() // the daemon has it; the writer of a pipe must notice when the daemon ends
			in.file = nil
		}
	}
	asks := make(chan *ask)
	var work sync.WaitGroup
	defer work.Wait()
	defer close(asks)
	workers := 0
	for {
		m, err := readFrame(from, maxAnswer)
		if err != nil {
			return nil, gone(errors.Join(sending, err))
		}
		switch {
		case m.Final != nil && m.Final.Status >= 400:
			return nil, &Error{m.Final.Status, m.Final.Error}
		case m.Final != nil:
			return m.Final.Result, nil
		case m.Ask == nil:
			return nil, protocolError("the daemon sent a message that is not a request")
		case m.Ask.Op == opProgress:
			if m.Ask.Progress != nil && onProgress != nil {
				onProgress(*m.Ask.Progress)
			}
			out.send(&message{Reply: &reply{ID: m.Ask.ID}}, nil) // a send error shows up when reading
			continue
		}
		select {
		case asks <- m.Ask:
			continue
		default: // all workers are busy
		}
		if workers < maxFlight {
			workers++
			work.Go(func() {
				for a := range asks {
					o.reply(out, a)
				}
			})
		}
		asks <- m.Ask
	}
}

// reply executes a request of the daemon and sends the reply. A send error shows up when reading.
func (o *opener) reply(out *sender, a *ask) {
	r, f := o.answer(a)
	r.ID = a.ID
	out.send(&message{Reply: r}, f)
	if f != nil {
		f.Close()
	}
}

// upgrade requests the protocol and returns the reader of the daemon's frames.
func upgrade(conn *net.UnixConn) (*bufio.Reader, error) {
	if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: casemate\r\nConnection: Upgrade\r\nUpgrade: "+
		"%s\r\nContent-Length: 0\r\n\r\n", Path, Protocol); err != nil {
		return nil, err
	}
	from := bufio.NewReaderSize(conn, 64<<10)
	resp, err := http.ReadResponse(from, &http.Request{Method: http.MethodPost})
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return from, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxAsk))
	var body struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(text, &body) != nil || body.Error == "" {
		body.Error = "the daemon answered " + resp.Status
	}
	return nil, &Error{resp.StatusCode, body.Error}
}

// gone explains the end of the connection.
func gone(err error) error {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, end) {
			return errors.New("casemate ended during the import: start it and run the same command again; what it " +
				"has received is retained")
		}
	}
	return err
}

// opener holds the operator's inputs open.
type opener struct {
	inputs []*input

	mu     sync.Mutex
	lastID uint64
	dirs   map[uint64]*listing
}

type input struct {
	named  Named
	file   *os.File // nil for a directory, and after it was passed
	root   *os.Root // nil for a file
	parent parent   // of the files of root
	relay  *relay   // nil unless the file is a pipe that a relay fills
}

// openWithin is openInputs with a context: opening may block on a named pipe without a writer, or on a file server
// that is down.
func openWithin(ctx context.Context, paths []string) (*opener, error) {
	type opened struct {
		o   *opener
		err error
	}
	got := make(chan opened, 1)
	go func() {
		o, err := openInputs(paths)
		got <- opened{o, err}
	}()
	select {
	case r := <-got:
		return r.o, r.err
	case <-ctx.Done():
		go func() {
			if r := <-got; r.err == nil {
				r.o.close()
			}
		}()
		return nil, context.Cause(ctx)
	}
}

func openInputs(paths []string) (*opener, error) {
	o := &opener{dirs: map[uint64]*listing{}}
	stdin := false
	for _, path := range paths {
		if path == "-" && stdin {
			o.close()
			return nil, errors.New("standard input (-) can be given only once")
		}
		in, err := openInput(path)
		if err != nil {
			o.close()
			return nil, err
		}
		stdin = stdin || path == "-"
		o.inputs = append(o.inputs, in)
	}
	return o, nil
}

func openInput(path string) (*input, error) {
	in := &input{named: Named{Name: path}}
	var f *os.File
	if path == "-" {
		// A copy, so that it can be closed like every other file; os.Stdin stays open.
		fd, err := unix.FcntlInt(os.Stdin.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return nil, fmt.Errorf("standard input: %w", err)
		}
		f = os.NewFile(uintptr(fd), "-")
	} else {
		var err error
		if f, err = os.Open(path); err != nil {
			return nil, err
		}
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if st.IsDir() {
		defer f.Close()
		if path == "-" {
			return nil, errors.New("standard input is a directory: give it as an argument")
		}
		in.named.Dir = true
		in.root, err = os.OpenRoot(path)
		return in, err
	}
	if plain(f) {
		in.file = f
		return in, nil
	}
	in.named.Relayed = true
	in.relay, in.file, err = startRelay(f)
	return in, err
}

// close closes all open files. No replies may be sent after it.
func (o *opener) close() {
	for _, in := range o.inputs {
		if in.file != nil {
			in.file.Close()
		}
		if in.root != nil {
			in.parent.close()
			in.root.Close()
		}
		if in.relay != nil {
			in.relay.stop()
		}
	}
	for _, d := range o.dirs {
		d.close()
	}
}
