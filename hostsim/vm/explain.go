package vm

import (
	"context"
	"fmt"
	"log/slog"
)

// because notes, for the debug log, why the host function that runs will not
// return Ok.
func (v *instance) because(format string, args ...any) {
	if v.group.engine.log.Enabled(context.Background(), slog.LevelDebug) {
		v.why = fmt.Sprintf(format, args...)
	}
}
