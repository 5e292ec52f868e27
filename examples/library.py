"""Use the session service in your own process: no protocol, no other process but the kernel's."""

import json

import anyio

from ci_tools import StepOutput, StreamOutput, open_service


async def main() -> None:
    async with open_service() as service:
        session = await service.create_session(name="example")
        await service.upload_file(session.id, "numbers.csv", b"n\n1\n2\n3\n")

        step = await service.run_code(
            session.id,
            "import csv\n"
            "total = sum(int(row['n']) for row in csv.DictReader(open('numbers.csv')))\n"
            "open('total.txt', 'w').write(str(total))",
        )
        print(step.status, [file.path for file in step.files])

        # Output as it comes; leaving the block early would interrupt the code.
        async with service.stream_code(session.id, "for i in range(3): print(i, total)") as events:
            async for event in events:
                if isinstance(event, StepOutput) and isinstance(event.output, StreamOutput):
                    print(event.output.text, end="")

        async with service.open_file(session.id, "total.txt") as chunks:
            print(b"".join([chunk async for chunk in chunks]).decode())
        notebook = await service.export_notebook(session.id)
        print(f"{len(json.dumps(notebook)):,} characters of notebook")
        await service.close_session(session.id)


anyio.run(main)
