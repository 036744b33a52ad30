package proxy

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	streamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
)

// accessLog writes one line for each stream.
type accessLog struct {
	format *format
	out    *logFile
}

func (l *accessLog) write(s *stream) { l.out.write(l.format.text(s, "-")) }

// logFile is a buffered file that several access loggers may share. It is
// flushed each second and when the server closes.
type logFile struct {
	mu   sync.Mutex
	w    *bufio.Writer
	file io.Closer
	stop chan struct{}
}

const logFlushInterval = time.Second

func newLogFile(w io.Writer, c io.Closer) *logFile {
	f := &logFile{w: bufio.NewWriterSize(w, 64<<10), file: c, stop: make(chan struct{})}
	go func() {
		tick := time.NewTicker(logFlushInterval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				f.flush()
			case <-f.stop:
				return
			}
		}
	}()
	return f
}

func (f *logFile) write(line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.w.WriteString(line)
}

func (f *logFile) flush() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.w.Flush()
}

func (f *logFile) close() {
	close(f.stop)
	f.flush()
	if f.file != nil {
		f.file.Close()
	}
}

func (b *builder) accessLogs(path string, list []*accesslogv3.AccessLog) ([]*accessLog, error) {
	var logs []*accessLog
	for i, c := range list {
		path := at(path, "access_log", i) + ".typed_config"
		msg, err := b.boot.Unpack(c.GetTypedConfig(), path)
		if err != nil {
			return nil, err
		}
		var file string
		var text *corev3.SubstitutionFormatString
		switch c := msg.(type) {
		case *filev3.FileAccessLog:
			file, text = c.GetPath(), c.GetLogFormat()
		case *streamv3.StdoutAccessLog:
			file, text = "/dev/stdout", c.GetLogFormat()
		case *streamv3.StderrAccessLog:
			file, text = "/dev/stderr", c.GetLogFormat()
		default:
			return nil, b.boot.Unsupported(path, fmt.Sprintf("access logger %q", c))
		}
		line := defaultAccessLog
		if text != nil {
			line = text.GetTextFormatSource().GetInlineString()
		}
		f, err := b.format(path+".log_format.text_format_source.inline_string", line)
		if err != nil {
			return nil, err
		}
		out, err := b.server.logFile(file)
		if err != nil {
			return nil, b.boot.Errorf(path+".path", "%v", err)
		}
		logs = append(logs, &accessLog{f, out})
	}
	return logs, nil
}

// defaultAccessLog is Envoy's default format, but for the parts that need
// what hostsim does not know (X-ENVOY-ORIGINAL-PATH falls back to :PATH).
const defaultAccessLog = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" " +
	"%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% " +
	"\"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n"

// logFile opens a log once, however many loggers write to it.
func (s *Server) logFile(path string) (*logFile, error) {
	if f := s.logs[path]; f != nil {
		return f, nil
	}
	var f *logFile
	switch path {
	case "/dev/stdout":
		f = newLogFile(s.options.Stdout, nil)
	case "/dev/stderr":
		f = newLogFile(s.options.Stderr, nil)
	default:
		file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return nil, err
		}
		f = newLogFile(file, file)
	}
	s.logs[path] = f
	return f, nil
}
